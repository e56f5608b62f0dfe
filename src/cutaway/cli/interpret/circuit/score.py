"""`cutaway interpret circuit score`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError
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
    from cutaway.interp.circuits import Ablated, Circuit, FaithfulnessCurve, How, PromptPairs, Pruning, Ranking
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["score"]


@excludes("curve", "n_subsets", "unit", why="it takes nothing out of the circuit, but runs circuits of rising size")
@analysis(
    circuit=DEMO, ioi=DEMO_PAIRS, n_random=10, n_subsets=3, unit="none", source_of=model_of_circuit, source_said="the circuit's own"
)
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
    features: tuple[Path, ...] = (),
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
        curve: instead score edges as the circuit's were, on its pairs or half of those given, and run circuits of rising size on the
            others, where the circuit is marked
        ranking: of the curve's edges, by the size of their scores, or by how much they help, as the area CPR has it
        least_gap: the least difference between model and nothing that a share is taken of
        seed: of random circuits, parts and intervals
        force: score it in a model of the same shape with other weights
        features FOLDER: the dictionary of the circuit's features, where it has moved; may be given again

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

    if ranking != "size" and not curve:
        raise UsageError("--ranking is of the curve's edges: give --curve too, or leave it out")
    with count_progress("edges") as progress:
        known = given_circuit(lm, circuit, source=source, features=features, progress=progress)
    known.check(lm.model, force=force)
    if curve:
        parts, notes = _curve_pairs(lm, given, known, seed)
        found = _curve(lm, *parts, known, ablation or (known.ablation,), ranking, least_gap=least_gap, n_random=n_random, seed=seed)
        return replace(found, notes=(*found.notes, *notes))
    pairs, left_out = other_pairs(given.read(lm, known), known)
    notes = (*left_out, *stored_said(given, known))
    with count_progress("runs") as progress:
        scored = evaluate_circuit(
            lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, known, ablations=ablation or (known.ablation,), n_random=n_random,
            n_subsets=n_subsets, units=None if unit == "none" else unit, least_gap=least_gap, seed=seed,
            measured=pairs.measured, force=True, progress=progress, **pairs.runs,
        )  # fmt: skip
    return replace(scored, notes=(*pairs.question.notes, *notes))


def _curve_pairs(
    lm: LanguageModel, given: GivenPairs, circuit: Circuit, seed: int
) -> tuple[tuple[PromptPairs, PromptPairs], tuple[str, ...]]:
    """Return the pairs that edges are scored on and those that circuits are run on, and what is to be said of them.

    The circuit's own are scored on, others run on; where only one kind is given, each a half of it.
    """
    if not given.are_given:
        return (given.read(lm, circuit, "found_with"), given.read(lm, circuit, "held_out")), stored_said(given, circuit)
    pairs = given.read(lm, circuit)
    others, notes = other_pairs(pairs, circuit)
    if notes:
        return (pairs.without(set(others.hashes)), others), ()
    return pairs.split(seed=seed), ()


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
) -> FaithfulnessCurve:
    """Return the curve of the circuit's method: edges scored on one half of the pairs, circuits run on the other."""
    from cutaway.interp.circuits import faithfulness_curve, score_edges

    settings = circuit.settings
    method, steps = settings.get("method", "eap-ig-inputs"), settings.get("steps") or 5
    pruning: Pruning = "greedy" if settings.get("selection", "greedy") == "greedy" else "largest"
    with count_progress("edges") as progress:
        scored = score_edges(
            lm.model, finding.tokens, finding.other_tokens, finding.metric, method=method, kv=circuit.graph.kv,
            features=circuit.graph.features, steps=steps, ablation=_ablation(lm, finding, circuit), lengths=finding.lengths,
            progress=progress,
        )  # fmt: skip
    with count_progress("runs") as progress:
        curve = faithfulness_curve(
            lm.model, others.tokens, others.other_tokens, others.metric, scored.graph, scored.scores,
            pruning=pruning, ranking=ranking, ablations=ablations, seed=seed,
            circuit=circuit, measured=others.measured, progress=progress, **others.runs, **options,
        )  # fmt: skip
    own = "those that the circuit was found with" if set(finding.hashes) <= set(circuit.pair_hashes) else "others"
    note = f"Edges were scored by {method} on {len(finding)} pairs, {own}"
    return replace(curve, notes=(*others.question.notes, note))


def _ablation(lm: LanguageModel, pairs: PromptPairs, circuit: Circuit) -> How | Ablated:
    """Return what the curve's edges are scored by: as the circuit's were."""
    from cutaway.interp.circuits import ablated_outputs

    if circuit.ablation == "resample":
        return "resample"
    features = circuit.graph.open(lm.model, force=True).features
    return ablated_outputs(
        lm.model, pairs.tokens, circuit.ablation, other_tokens=pairs.other_tokens, features=features, **pairs.runs
    )
