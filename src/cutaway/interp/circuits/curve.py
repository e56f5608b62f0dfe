"""Faithfulness as a curve over the size of the circuit, and its areas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.ablated import ablated_outputs
from cutaway.interp.circuits.bootstrap import N_RESAMPLES
from cutaway.interp.circuits.circuit import Circuit, n_known_pairs
from cutaway.interp.circuits.counting import Counter, Score
from cutaway.interp.circuits.curve_result import SHARES, AblationCurve, FaithfulnessCurve
from cutaway.interp.circuits.faithfulness import LEAST_GAP
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.pruning import PRUNINGS, Pruned, Pruning, Ranking
from cutaway.interp.circuits.random_circuits import random_circuits
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["faithfulness_curve"]


def faithfulness_curve(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    graph: Graph,
    scores: Float[Tensor, "sender receiver"],
    *,
    shares: Sequence[float] = SHARES,
    pruning: Pruning = "greedy",
    ranking: Ranking = "size",
    ablations: Sequence[How] = ("zero", "mean", "resample"),
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    over_positions: bool = False,
    lengths: Sequence[int] | None = None,
    circuit: Circuit | None = None,
    n_random: int = 0,
    least_gap: float = LEAST_GAP,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    memory_gib: float = 1.0,
    measured: str = "metric",
    progress: Callable[[int, int], None] | None = None,
) -> FaithfulnessCurve:
    """Return the metric of circuits of rising size, each so large a share of the graph's edges before those on no path are dropped.

    MIB's CMD takes circuits of the edges whose scores are largest in size, its CPR those of the edges that help the metric most, the
    `ranking` "help": of one curve one area alone compares with theirs. `n_random` connected circuits with as many edges into each layer
    stand beside each of them. Give prompts that the scores were not made with; `lengths` are each row's tokens, in both runs,
    where rows are filled up on the right. A `circuit` of the same graph is run beside them, as a point of its own. Raises ValueError
    for shares that do not rise from above 0 to at most 1, for a circuit of another graph, and as runs and pruning do.
    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".
    """
    rising = list(shares)
    if not rising or rising != sorted(set(rising)) or not rising[0] > 0 or rising[-1] > 1:
        raise ValueError(f"the shares are {rising}; expected numbers that rise from above 0 to at most 1, such as 0.01, 0.1, 1")
    if circuit is not None and (circuit.graph.senders, circuit.graph.receivers) != (graph.senders, graph.receivers):
        raise ValueError("the circuit is of another graph than the scores: give the scores of its graph's edges")
    pruned = [PRUNINGS[pruning](graph, scores, max(1, round(share * graph.n_edges)), ranking=ranking) for share in rising]
    beside = [_beside(graph, each, n_random, seed + i) for i, each in enumerate(pruned)]
    n_runs = 2 + (circuit is not None) + sum(1 + len(each) for each in beside)
    counter, graph = Counter(len(ablations) * n_runs, progress), graph.open(model)
    settings: dict[str, Any] = {"shares": tuple(rising), "least_gap": least_gap, "n_resamples": n_resamples, "seed": seed}
    outside: dict[str, Any] = {"other_tokens": other_tokens, "reference": reference, "over_positions": over_positions}
    outsides = [ablated_outputs(model, tokens, how, lengths=lengths, features=graph.features, **outside) for how in ablations]
    runs = [CircuitRuns(model, tokens, graph, ablated, memory_gib, lengths) for ablated in outsides]
    return FaithfulnessCurve(
        curves=tuple(_curve(counter.counting(each, metric), each, pruned, beside, circuit, settings) for each in runs),
        n_edges=tuple(each.n_edges for each in pruned),
        n_dropped=tuple(each.n_dropped for each in pruned),
        n_edges_of_graph=graph.n_edges,
        pruning=pruning,
        ranking=ranking,
        measured=measured,
        circuit=circuit,
        n_known_pairs=n_known_pairs(circuit, tokens, other_tokens, lengths),
    )


def _curve(
    score: Score,
    runs: CircuitRuns,
    pruned: Sequence[Pruned],
    beside: Sequence[Sequence[Tensor]],
    circuit: Circuit | None,
    settings: Mapping[str, Any],
) -> AblationCurve:
    """Run every circuit under one ablation."""
    return AblationCurve(
        how=runs.ablated.how,
        said=runs.ablated.said,
        circuits=torch.stack([score(each.kept) for each in pruned]),
        model=score(runs.everything),
        empty=score(runs.nothing),
        random=tuple(torch.stack([score(kept) for kept in each]) if each else None for each in beside),
        marked=None if circuit is None else score(circuit.kept),
        **settings,
    )


def _beside(graph: Graph, pruned: Pruned, n_random: int, seed: int) -> list[Tensor]:
    """Return random circuits for one of the circuits; none for one that has no choice: no edge, or all."""
    if not n_random or pruned.n_edges in (0, graph.n_edges):
        return []
    return list(random_circuits(graph, graph.layer_histogram(pruned.kept), n_random, generator=seeded_generator(seed)))
