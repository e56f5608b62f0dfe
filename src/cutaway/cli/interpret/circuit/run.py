"""`cutaway interpret circuit run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.circuit.given import DEMO, DEMO_PAIRS, given_circuit, given_pairs, model_of_circuit, stored_said
from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["run"]


@analysis(circuit=DEMO, ioi=DEMO_PAIRS, source_of=model_of_circuit)
def run(
    lm: LanguageModel,
    circuit: str,
    /,
    *,
    source: str,
    prompts: Path | None = None,
    ioi: int | None = None,
    ioi_seed: int = 0,
    ioi_template: tuple[int, ...] = (),
    text: str | None = None,
    corrupted: str | None = None,
    target: str | None = None,
    wrong: str | None = None,
    ablation: Literal["zero", "mean", "resample"] = "resample",
    metric: Literal["logit_diff", "prob", "log_prob"] | None = None,
    force: bool = False,
) -> Result:
    """Show what a model says with a circuit alone: everything outside it is ablated, beside the whole model and nothing at all.

    A receiver reads the kept senders as they write now, and all others as they write when ablated. Conmy et al. 2023.

    Args:
        circuit: a file that `circuit find --out` wrote; `demo` is found first
        prompts FILE: pairs of prompts, JSON, one a line; unless any are given, those in the circuit's file that were held out
        ioi N: so many prompts about who is given something, made here
        ioi_seed: of what these prompts are
        ioi_template N: 1 to 3, whose words they have, one for all unless given; may be given again for more of one length
        text: one prompt
        corrupted TEXT: the same with another answer
        target TOKEN: the answer to the prompt
        wrong TOKEN: another answer; the metric is then their logit difference
        ablation: what is put in the place of everything outside: zeros, the mean over the corrupted prompts, or what they give
        metric: of the answer; logit_diff with a wrong one, else log_prob
        force: run it in a model of the same shape with other weights

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
        known = given_circuit(lm, circuit, source=source, progress=progress)
    known.check(lm.model, force=force)
    pairs = given_pairs(
        lm, prompts=prompts, ioi=ioi, ioi_seed=ioi_seed, ioi_template=ioi_template, text=text,
        corrupted=corrupted, target=target, wrong=wrong, metric=metric, circuit=known
    )  # fmt: skip
    found = run_on_prompts(lm, pairs, known, ablation=ablation, force=True)
    return replace(found, notes=(*pairs.question.notes, *stored_said(known, prompts, ioi, text)))
