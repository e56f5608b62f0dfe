"""Edges tried one at a time, by path patching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.circuits.graph import Edge
from cutaway.interp.circuits.pair import MeanScores, Pair, RowSums
from cutaway.interp.path_patching import PathPatching, patch_paths

__all__ = ["try_all", "try_largest"]

_Progress = Callable[[int, int], None]


def try_all(pair: Pair, progress: _Progress) -> MeanScores:
    """Return what every edge does."""
    found, sums = _tried(pair, list(pair.graph.edges()), progress), RowSums(pair.graph)
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
