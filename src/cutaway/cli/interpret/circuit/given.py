"""What the verbs of `cutaway interpret circuit` are given: prompts and a circuit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.interp.circuits import Circuit, EdgeMethod, PromptPairs
    from cutaway.language_model import LanguageModel

__all__ = ["DEMO", "DEMO_PAIRS", "model_of_circuit", "given_pairs", "other_pairs", "stored_said", "stored_parts", "given_circuit"]

DEMO = "demo"
"""The circuit that is found on the spot, as `circuit find --demo` finds it."""
DEMO_PAIRS = 16
"""The pairs of the worked examples: one half finds the circuit, the other scores it."""


def model_of_circuit(options: Mapping[str, Any]) -> str | None:
    """Return what the circuit's model is called, None where it does not say."""
    from cutaway.interp.circuits import Circuit

    return None if options["circuit"] in (None, DEMO) else Circuit.load(options["circuit"]).model or None


def given_pairs(
    lm: LanguageModel,
    *,
    prompts: Path | None,
    ioi: int | None,
    ioi_seed: int,
    ioi_template: tuple[int, ...],
    text: str | None,
    corrupted: str | None,
    target: str | None,
    wrong: str | None,
    metric: str | None,
    circuit: Circuit | None = None,
) -> PromptPairs:
    """Return the prompts of a file, so many about an indirect object, or the one pair of options; without these the circuit's own.

    Raises ValueError for none.
    """
    from cutaway.experiments.ioi import ioi_prompts
    from cutaway.interp.circuits import read_pairs, read_pairs_file, stored_pairs

    n_ways = (prompts is not None) + (ioi is not None) + (text is not None)
    if n_ways > 1:
        raise ValueError("--prompts, --ioi and --text are three ways to give prompts: give one of them")
    asked: dict[str, Any] = {"metric": metric}
    if prompts is not None:
        return read_pairs_file(lm, prompts, **asked)
    if ioi is not None:
        return ioi_prompts(lm, ioi, seed=ioi_seed, templates=_templates(ioi_template)).pairs(lm, **asked)
    if n_ways == 0 and circuit is not None:
        return stored_pairs(lm, circuit, metric=metric)  # type: ignore[arg-type]  # a name, which is checked
    if text is None or corrupted is None or target is None:
        raise ValueError("prompts are missing: give --prompts FILE, --ioi N, or --text, --corrupted and --target, perhaps --wrong")
    return read_pairs(lm, [text], [corrupted], [target], None if wrong is None else [wrong], **asked)


def other_pairs(pairs: PromptPairs, circuit: Circuit) -> tuple[PromptPairs, tuple[str, ...]]:
    """Return the pairs that a circuit was not found with and a note of how many are left out; all of them where there are no others."""
    n = sum(each not in circuit.pair_hashes for each in pairs.hashes)
    if n in (0, len(pairs)):
        return pairs, ()
    note = f"{len(pairs) - n} of the {len(pairs)} pairs were left out, as the circuit was found with them"
    return pairs.without(circuit.pair_hashes), (note,)


def stored_said(circuit: Circuit, *given: object) -> tuple[str, ...]:
    """Return a note that the prompts are the circuit's own, where no others were given."""
    kept = circuit.prompts
    if kept is None or any(each is not None for each in given):
        return ()
    what = "held out when the circuit was found" if kept.held_out else "those that the circuit was found with"
    return (f"No prompts were given: those of the circuit's file are taken, {what}",)


def stored_parts(lm: LanguageModel, circuit: Circuit, metric: str | None) -> tuple[PromptPairs, PromptPairs]:
    """Return the prompts that a circuit was found with and those held out; raises ValueError for a file without either."""
    from cutaway.interp.circuits import stored_pairs

    found, held_out = (stored_pairs(lm, circuit, part, metric=metric) for part in ("found_with", "held_out"))  # type: ignore[arg-type]
    return found, held_out


def _templates(numbers: tuple[int, ...]) -> Sequence[str] | None:
    from cutaway.experiments.ioi import TEMPLATES

    if wrong := [each for each in numbers if not 0 < each <= len(TEMPLATES)]:
        raise ValueError(f"there is no template {wrong[0]}: give --ioi-template 1 to {len(TEMPLATES)}")
    return [TEMPLATES[each - 1] for each in numbers] or None


def given_circuit(
    lm: LanguageModel,
    circuit: str,
    *,
    source: str,
    method: EdgeMethod = "eap-ig-inputs",
    progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """Return the circuit of a file, or the one of the worked example."""
    from cutaway.experiments.ioi import ioi_prompts
    from cutaway.interp.circuits import Circuit, find_circuit

    if circuit != DEMO:
        return Circuit.load(circuit)
    return find_circuit(lm, ioi_prompts(lm, DEMO_PAIRS).pairs(lm), method=method, name=source, progress=progress).circuit
