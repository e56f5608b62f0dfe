"""Edges tried one at a time: by path patching, or ablated in a circuit of all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.circuits.ablated import Ablated
from cutaway.interp.circuits.graph import Edge
from cutaway.interp.circuits.pair import MeanScores, Pair, RowSums
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.path_patching import PathPatching, patch_paths

__all__ = ["try_all", "try_largest"]

_Progress = Callable[[int, int], None]


def try_all(pair: Pair, progress: _Progress) -> MeanScores:
    """Return what every edge does."""
    sums = RowSums(pair.graph)
    if pair.ablated is not None:
        gained = torch.full((len(pair.tokens), *pair.graph.has_edge.shape), torch.nan, dtype=torch.float64)
        base, other, effects = _without_each(pair, pair.ablated, list(pair.graph.edges()), progress)
        for edge, effect in effects.items():
            gained[:, *pair.graph.place(edge)] = effect.double().cpu()
        sums.add(gained, base, other)
        return sums.mean()
    found = _tried(pair, list(pair.graph.edges()), progress)
    sums.add((found.scores - found.base).movedim(-1, 0), found.base, found.other)
    return sums.mean()


def try_largest(pair: Pair, scores: Float[Tensor, "sender receiver"], n: int, progress: _Progress) -> dict[Edge, float]:
    """Return what the `n` edges of the largest scores do."""
    if n == 0:
        return {}
    graph = pair.graph
    order = scores.abs().nan_to_num(nan=-1.0).flatten().argsort(descending=True, stable=True)[:n]
    places = torch.stack(torch.unravel_index(order, scores.shape), dim=-1).tolist()
    edges = [Edge(graph.senders[sender], graph.receivers[receiver]) for sender, receiver in places]
    if pair.ablated is not None:
        return {edge: float(effect.mean()) for edge, effect in _without_each(pair, pair.ablated, edges, progress)[2].items()}
    found = _tried(pair, edges, progress)
    senders, receivers = ({node: i for i, node in enumerate(nodes)} for nodes in (found.senders, found.receivers))
    effects = found.effects.tolist()
    return {edge: effects[senders[edge.sender]][receivers[edge.receiver]] for edge in edges}


def _tried(pair: Pair, edges: Sequence[Edge], progress: _Progress) -> PathPatching:
    return patch_paths(
        pair.model,
        pair.tokens,
        pair.other_tokens,
        pair.metric,
        paths=[(str(edge.sender), str(edge.receiver)) for edge in edges],
        mlps="frozen",
        features=pair.graph.features,
        frozen_norms=pair.frozen,
        lengths=pair.lengths,
        other_lengths=pair.lengths,
        memory_gib=pair.memory_gib,
        progress=progress,
    )


def _without_each(
    pair: Pair, ablated: Ablated, edges: Sequence[Edge], progress: _Progress
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], dict[Edge, Float[Tensor, " batch"]]]:
    """Return the metric of the model and with everything ablated, and what it gains where one edge alone carries what is ablated."""
    memory = {} if pair.memory_gib is None else {"memory_gib": pair.memory_gib}
    runs = CircuitRuns(pair.model, pair.tokens, pair.graph, ablated, lengths=pair.lengths, **memory)
    n_rows, metric = len(pair.tokens), pair.metric
    base, other = (runs.metric(kept, metric) for kept in (runs.everything, runs.nothing))
    effects = {}
    for n_done, edge in enumerate(edges, 1):
        effects[edge] = runs.metric(runs.everything & ~pair.graph.mask([edge]), metric) - base
        progress(n_done * n_rows, len(edges) * n_rows)
    return base, other, effects
