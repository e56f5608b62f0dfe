"""`cutaway interpret circuit score`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.interpret.circuit.given import (
    DEMO,
    DEMO_PAIRS,
    GivenPairs,
    given_circuit,
    model_of_circuit,
    other_pairs,
    stored_said,
)
from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.circuits import Circuit, How, PromptPairs, Pruning, Ranking
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["score"]


@analysis(circuit=DEMO, ioi=DEMO_PAIRS, n_random=10, n_subsets=3, unit="none", source_of=model_of_circuit)
def score(
    lm: LanguageModel,
    circuit: str,
    /,
    *,
    source: str,
    given: GivenPairs,
    ablation: tuple[Literal["zero", "mean", "resample"], ...] = (),
    n_random: int = 50,
    n_subsets: int = 10,
    unit: Literal["node", "edge", "none"] = "node",
    curve: bool = False,
    ranking: Literal["size", "help"] = "size",
    least_gap: float = 0.1,
    seed: int = 0,
    force: bool = False,
) -> Result:
    """Score a circuit: how faithful it is, how complete and how minimal, beside random connected circuits of the same layers.

    Faithfulness is the share of the way from everything ablated (0) to the whole model (1), with a 95 % interval over pairs; |M-C| is
    how far it is from the model; parts is the largest difference between circuit and model without the same random part of it. Pairs
    that the circuit was found with are left out where there are others. Wang et al. 2022, section 4; Mueller et al. 2025.

    Args:
        circuit: a file that `circuit find --out` wrote; `demo` is found first
        ablation: zero, mean or resample, as the circuit was found unless given; may be given again for more
        n_random: how many random circuits
        n_subsets: how many random parts of it are taken out
        unit: what is taken out at a time to see what it does
        curve: instead score edges on half of the pairs, as the circuit's were, and run circuits of rising size on the others
        ranking: of the curve's edges, by the size of their scores, or by how much they help, as the area CPR has it
        least_gap: the least difference between model and nothing that a share is taken of
        seed: of random circuits, parts and intervals
        force: score it in a model of the same shape with other weights

    Examples:
        cutaway interpret circuit score --demo
        cutaway interpret circuit score --demo --curve
        cutaway interpret circuit score circuit.json --prompts others.jsonl --ablation mean --ablation resample

    In Python:
        from cutaway import circuits
        scores = circuits.evaluate_circuit(lm.model, clean, corrupted, metric, circuit, ablations=["zero", "mean", "resample"])
        scores.of("mean").normalised, scores.of("mean").interval
    """
    from cutaway.interp.circuits import evaluate_circuit

    with count_progress("edges") as progress:
        known = given_circuit(lm, circuit, source=source, progress=progress)
    known.check(lm.model, force=force)
    if curve:
        own = given.read(lm, known, "found_with")  # where prompts are given, all of them
        parts = own.split(seed=seed) if given.are_given else (own, given.read(lm, known, "held_out"))
        return _curve(lm, *parts, known, ablation or (known.ablation,), ranking, least_gap=least_gap, n_random=n_random, seed=seed)
    pairs, left_out = other_pairs(given.read(lm, known), known)
    notes = (*left_out, *stored_said(given, known))
    with count_progress("runs") as progress:
        scored = evaluate_circuit(
            lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, known, ablations=ablation or (known.ablation,), n_random=n_random,
            n_subsets=n_subsets, units=None if unit == "none" else unit, least_gap=least_gap, seed=seed,
            measured=pairs.measured, force=True, progress=progress,
        )  # fmt: skip
    return replace(scored, notes=(*pairs.question.notes, *notes))


def _curve(
    lm: LanguageModel,
    finding: PromptPairs,
    others: PromptPairs,
    circuit: Circuit,
    ablations: tuple[How, ...],
    ranking: Ranking,
    *,
    seed: int,
    **options: Any,
) -> Result:
    """Return the curve of the circuit's method: edges scored on one half of the pairs, circuits run on the other."""
    from cutaway.interp.circuits import faithfulness_curve, score_edges

    settings = circuit.settings
    method, steps = settings.get("method", "eap-ig-inputs"), settings.get("steps") or 5
    pruning: Pruning = "threshold" if settings.get("selection") == "threshold" else "greedy"
    with count_progress("edges") as progress:
        scored = score_edges(
            lm.model, finding.tokens, finding.other_tokens, finding.metric, method=method, kv=circuit.graph.kv,
            features=circuit.graph.features, steps=steps, ablation=circuit.ablation, progress=progress,
        )  # fmt: skip
    with count_progress("runs") as progress:
        curve = faithfulness_curve(
            lm.model, others.tokens, others.other_tokens, others.metric, scored.graph, scored.scores,
            pruning=pruning, ranking=ranking, ablations=ablations, seed=seed,
            measured=others.measured, progress=progress, **options,
        )  # fmt: skip
    note = (
        f"Edges were scored by {method} on {len(finding)} other pairs; the circuit itself keeps {100 * circuit.share:.2g} % of them"
    )
    return replace(curve, notes=(*others.question.notes, note))
