"""`cutaway interpret circuit run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.circuit.given import DEMO, DEMO_PAIRS, GivenPairs, given_circuit, model_of_circuit, stored_said
from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["run"]


@analysis(circuit=DEMO, ioi=DEMO_PAIRS, source_of=model_of_circuit, source_said="the circuit's own")
def run(
    lm: LanguageModel,
    circuit: str,
    /,
    *,
    source: str,
    given: GivenPairs,
    ablation: Literal["zero", "mean", "resample"] | None = None,
    force: bool = False,
    features: tuple[Path, ...] = (),
) -> Result:
    """Show what a model says with a circuit alone: everything outside it is ablated, beside the whole model and nothing at all.

    A receiver reads the kept senders as they write now, and all others as they write when ablated. Conmy et al. 2023.

    Args:
        circuit: a file that `circuit find --out` wrote; `demo` is found first
        ablation: what is put in the place of everything outside: zeros, the mean over the corrupted prompts, or what they give; as the
            circuit was found unless given
        force: run it in a model of the same shape with other weights
        features FOLDER: the dictionary of the circuit's features, where it has moved; may be given again

    Examples:
        cutaway interpret circuit run --demo
        cutaway interpret circuit run circuit.json
        cutaway interpret circuit run circuit.json --prompts pairs.jsonl --ablation mean

    In Python:
        from cutaway import circuits
        circuit = circuits.Circuit.load("circuit.json")
        logits = circuits.run_circuit(lm.model, clean, circuit, other_tokens=corrupted)
    """
    from cutaway.interp.circuits import run_on_prompts

    with count_progress("edges") as progress:
        known = given_circuit(lm, circuit, source=source, features=features, progress=progress)
    known.check(lm.model, force=force)
    pairs = given.read(lm, known)
    found = run_on_prompts(lm, pairs, known, ablation=ablation, force=True)
    return replace(found, notes=(*pairs.question.notes, *stored_said(given, known)))
