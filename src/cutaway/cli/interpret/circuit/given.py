"""What the verbs of `cutaway interpret circuit` are given: prompts and a circuit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.errors import UsageError

if TYPE_CHECKING:
    from cutaway.interp.circuits import Circuit, EdgeMethod, PromptPairs, StoredPart
    from cutaway.language_model import LanguageModel

__all__ = [
    "DEMO",
    "DEMO_MODEL",
    "DEMO_PAIRS",
    "GivenPairs",
    "model_of_circuit",
    "other_pairs",
    "stored_said",
    "given_circuit",
]

DEMO = "demo"
"""The circuit that is found on the spot, as `circuit find --demo` finds it."""
DEMO_MODEL = "smollm2-135m"
"""The model that it is found in, unless another is named."""
DEMO_PAIRS = 16
"""The pairs of the worked examples: one half finds the circuit, the other scores it."""


@dataclass(frozen=True, kw_only=True)
class GivenPairs:
    """Where pairs of prompts come from, and what is measured of them; raises UsageError for more than one way to give them.

    Args:
        prompts FILE: pairs of prompts, JSON, one a line: clean, corrupted, correct, perhaps wrong; else a circuit's own
        ioi N: so many prompts about who is given something, made here
        ioi_seed: of what these prompts are
        ioi_template N: 1 to 3, whose words they have, one for all unless given; may be given again for more of one length
        text: one prompt
        corrupted TEXT: the same with another answer
        target TOKEN: the answer to the prompt
        wrong TOKEN: another answer; the metric is then their logit difference
        metric: of the answer; logit_diff with a wrong one, else log_prob
    """

    prompts: Path | None = None
    ioi: int | None = None
    ioi_seed: int = 0
    ioi_template: tuple[int, ...] = ()
    text: str | None = None
    corrupted: str | None = None
    target: str | None = None
    wrong: str | None = None
    metric: Literal["logit_diff", "prob", "log_prob"] | None = None

    def __post_init__(self) -> None:
        n_ways = (self.prompts is not None) + (self.ioi is not None) + (self.text is not None)
        if n_ways > 1:
            raise UsageError("--prompts, --ioi and --text are three ways to give prompts: give one of them")
        one = (self.text, self.corrupted, self.target)
        if None in one and any(each is not None for each in (*one, self.wrong)):
            raise UsageError("one prompt is given by --text, --corrupted and --target, perhaps --wrong: give all three")

    @property
    def are_given(self) -> bool:
        """Whether there are any; else a circuit's own are taken."""
        return self.prompts is not None or self.ioi is not None or self.text is not None

    def read(self, lm: LanguageModel, circuit: Circuit | None = None, part: StoredPart | None = None) -> PromptPairs:
        """Return the prompts of a file, so many about an indirect object, or the one pair; where none are given, the circuit's own.

        Of the circuit's own those of a part, or unless it is named those held out. Raises ValueError as reading does.
        """
        from cutaway.experiments.ioi import ioi_prompts
        from cutaway.interp.circuits import read_pairs, read_pairs_file, stored_pairs

        if not self.are_given and circuit is not None:
            return stored_pairs(lm, circuit, part, metric=self.metric)
        if self.prompts is not None:
            return read_pairs_file(lm, self.prompts, metric=self.metric)
        if self.ioi is not None:
            made = ioi_prompts(lm, self.ioi, seed=self.ioi_seed, templates=_templates(self.ioi_template))
            return made.pairs(lm, metric=self.metric)
        assert self.text is not None
        assert self.corrupted is not None
        assert self.target is not None
        wrong = None if self.wrong is None else [self.wrong]
        return read_pairs(lm, [self.text], [self.corrupted], [self.target], wrong, metric=self.metric)


def model_of_circuit(options: Mapping[str, Any]) -> str | None:
    """Return what the circuit's model is called, None where it does not say; the worked example's for its own."""
    from cutaway.interp.circuits import Circuit

    if options["circuit"] == DEMO:
        return DEMO_MODEL
    return None if options["circuit"] is None else Circuit.load(options["circuit"]).model or None


def other_pairs(pairs: PromptPairs, circuit: Circuit) -> tuple[PromptPairs, tuple[str, ...]]:
    """Return the pairs that a circuit was not found with and a note of how many are left out; all of them where there are no others."""
    n = sum(each not in circuit.pair_hashes for each in pairs.hashes)
    if n in (0, len(pairs)):
        return pairs, ()
    were, them = ("was", "it") if len(pairs) - n == 1 else ("were", "them")
    note = f"{len(pairs) - n} of the {len(pairs)} pairs {were} left out, as the circuit was found with {them}"
    return pairs.without(circuit.pair_hashes), (note,)


def stored_said(given: GivenPairs, circuit: Circuit) -> tuple[str, ...]:
    """Return a note that the prompts are the circuit's own, where no others were given."""
    if given.are_given or circuit.prompts is None:
        return ()
    what = "held out when the circuit was found" if circuit.prompts.held_out else "those that the circuit was found with"
    return (f"No prompts were given: those of the circuit's file are taken, {what}",)


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
    features: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """Return the circuit of a file, with the dictionaries of these folders as its features', or the one of the worked example."""
    from cutaway.experiments.ioi import ioi_prompts
    from cutaway.interp.circuits import Circuit, find_circuit
    from cutaway.interp.sae import load_dictionary

    if circuit != DEMO:
        return Circuit.load(circuit).with_dictionaries(*map(load_dictionary, features))
    return find_circuit(lm, ioi_prompts(lm, DEMO_PAIRS).pairs(lm), method=method, name=source, progress=progress).circuit
