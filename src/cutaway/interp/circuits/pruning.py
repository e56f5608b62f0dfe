"""Circuits from edge scores: the largest, all of a size, or greedily from the logits up; what is not connected is dropped."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp.circuits.graph import Graph

__all__ = ["Pruning", "Ranking", "Pruned", "PRUNINGS", "prune_by_threshold", "prune_to_largest", "prune_greedily"]

Pruning = Literal["largest", "greedy"]
"""The edges with the largest scores anywhere, or the largest of those that lead to what is kept already."""
Ranking = Literal["size", "help"]
"""What puts an edge first: the size of its score, or what the metric loses when it carries the corrupted run, its score negated."""


class Pruned(NamedTuple):
    """The edges that are kept, and how many were taken and then dropped, as no path from the embedding to the logits has them."""

    kept: Bool[Tensor, "sender receiver"]
    n_dropped: int

    @property
    def n_edges(self) -> int:
        """How many are kept."""
        return int(self.kept.sum())


def prune_by_threshold(graph: Graph, scores: Float[Tensor, "sender receiver"], least: float) -> Pruned:
    """Keep every edge whose score is `least` in size or more, in the metric's units, then drop those that are not connected.

    Raises ValueError for scores that are not of this graph.
    """
    return _connected(graph, graph.has_edge & (_sizes(graph, scores, "size") >= least))


def prune_to_largest(graph: Graph, scores: Float[Tensor, "sender receiver"], n_edges: int, *, ranking: Ranking = "size") -> Pruned:
    """Keep the `n_edges` edges that `ranking` puts first, then drop those that are not connected; ties go in the graph's order.

    Raises ValueError for scores that are not of this graph, and for more edges than it has.
    """
    _check_number(graph, n_edges)
    places = _sizes(graph, scores, ranking).flatten().argsort(descending=True, stable=True)[:n_edges]
    kept = torch.zeros_like(graph.has_edge)
    kept.view(-1)[places] = True
    return _connected(graph, kept)


def prune_greedily(graph: Graph, scores: Float[Tensor, "sender receiver"], n_edges: int, *, ranking: Ranking = "size") -> Pruned:
    """Take `n_edges` edges one by one, each the largest that leads to what is taken already, from the logits up; then as above.

    Every edge taken leads to the logits, so that fewer are dropped: those of nodes to which none came from the embedding. Raises
    ValueError as `prune_to_largest` does. Source: Hanna et al. 2024, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When
    Finding Model Mechanisms".
    """
    _check_number(graph, n_edges)
    sizes = _sizes(graph, scores, ranking)
    columns = sizes.T.tolist()
    inputs_of = [column.nonzero()[:, 0].tolist() for column in graph.feeds.T]
    queue: list[tuple[float, int, int]] = []
    seen: set[int] = set()

    def offer(receivers: list[int]) -> None:
        for receiver in receivers:
            if receiver not in seen:
                seen.add(receiver)
                for sender in graph.has_edge[:, receiver].nonzero()[:, 0].tolist():
                    heapq.heappush(queue, (-columns[receiver][sender], sender, receiver))

    kept = torch.zeros_like(graph.has_edge)
    offer([len(graph.receivers) - 1])
    for _ in range(n_edges):
        _, sender, receiver = heapq.heappop(queue)
        kept[sender, receiver] = True
        offer(inputs_of[sender])
    return _connected(graph, kept)


PRUNINGS: Mapping[Pruning, Callable[..., Pruned]] = {"largest": prune_to_largest, "greedy": prune_greedily}
"""The ways to prune to a number of edges, by name."""


def _connected(graph: Graph, kept: Tensor) -> Pruned:
    connected = graph.connected(kept)
    return Pruned(connected, int(kept.sum() - connected.sum()))


def _check_number(graph: Graph, n_edges: int) -> None:
    if not 0 < n_edges <= graph.n_edges:
        raise ValueError(f"{n_edges:,} edges are to be kept; the graph has {graph.n_edges:,}: give 1 to so many")


def _sizes(graph: Graph, scores: Tensor, ranking: Ranking) -> Float[Tensor, "sender receiver"]:
    if scores.shape != graph.has_edge.shape:
        raise ValueError(
            f"the scores have the shape {tuple(scores.shape)} and the graph {tuple(graph.has_edge.shape)}, senders by receivers: "
            "give the scores of this graph's edges"
        )
    if ranking not in get_args(Ranking):
        raise ValueError(f"there is no ranking {ranking!r}; give one of {', '.join(get_args(Ranking))}")
    sizes = -scores.detach().cpu() if ranking == "help" else scores.detach().cpu().abs()
    if bool(sizes[graph.has_edge].isnan().any()):
        raise ValueError("some edges have no score (nan): score every edge of the graph first")
    return torch.where(graph.has_edge, sizes, -torch.inf)
