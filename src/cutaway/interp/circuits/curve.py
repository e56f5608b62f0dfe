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
    stand beside each of them. Give prompts that the scores were not made with. Raises ValueError for shares that do not rise from above
    0 to at most 1, and as runs and pruning do.
    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".
    """
    rising = list(shares)
    if not rising or rising != sorted(set(rising)) or not rising[0] > 0 or rising[-1] > 1:
        raise ValueError(f"the shares are {rising}; expected numbers that rise from above 0 to at most 1, such as 0.01, 0.1, 1")
    pruned = [PRUNINGS[pruning](graph, scores, max(1, round(share * graph.n_edges)), ranking=ranking) for share in rising]
    beside = [_beside(graph, each, n_random, seed + i) for i, each in enumerate(pruned)]
    counter = Counter(len(ablations) * (2 + sum(1 + len(each) for each in beside)), progress)
    settings: dict[str, Any] = {"least_gap": least_gap, "n_resamples": n_resamples, "seed": seed}
    curves = []
    graph = graph.open(model)
    outside: dict[str, Any] = {"other_tokens": other_tokens, "reference": reference, "over_positions": over_positions}
    for how in ablations:
        ablated = ablated_outputs(model, tokens, how, features=graph.features, **outside)
        runs = CircuitRuns(model, tokens, graph, ablated, memory_gib)
        curves.append(_curve(counter.counting(runs, metric), runs, rising, pruned, beside, settings))
    return FaithfulnessCurve(
        curves=tuple(curves),
        n_edges=tuple(each.n_edges for each in pruned),
        n_dropped=tuple(each.n_dropped for each in pruned),
        n_edges_of_graph=graph.n_edges,
        pruning=pruning,
        ranking=ranking,
        measured=measured,
    )


def _curve(
    score: Score,
    runs: CircuitRuns,
    shares: Sequence[float],
    pruned: Sequence[Pruned],
    beside: Sequence[Sequence[Tensor]],
    settings: Mapping[str, Any],
) -> AblationCurve:
    """Run every circuit under one ablation."""
    return AblationCurve(
        how=runs.ablated.how,
        said=runs.ablated.said,
        shares=tuple(shares),
        circuits=torch.stack([score(each.kept) for each in pruned]),
        model=score(runs.everything),
        empty=score(runs.nothing),
        random=tuple(torch.stack([score(kept) for kept in each]) if each else None for each in beside),
        **settings,
    )


def _beside(graph: Graph, pruned: Pruned, n_random: int, seed: int) -> list[Tensor]:
    """Return random circuits for one of the circuits; none for one that has no choice: no edge, or all."""
    if not n_random or pruned.n_edges in (0, graph.n_edges):
        return []
    return list(random_circuits(graph, graph.layer_histogram(pruned.kept), n_random, generator=seeded_generator(seed)))
