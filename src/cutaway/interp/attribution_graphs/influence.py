"""How much of a graph passes through each node: indirect influence, scores, pruning, the strongest paths.

All of it is about the sizes of edges: each target's incoming edges, divided by the sum of their sizes, are the shares `A` of what it
reads. What reaches the logits from a source on all paths is the Neumann series `w A + w A^2 + ...` with `w` the logits' weights, which
ends after as many steps as there are layers.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["shares", "influence", "edge_influence", "completeness", "cumulative", "prune", "Pruning", "strongest_paths"]


def shares(edges: Float[Tensor, "target source"]) -> Float[Tensor, "target source"]:
    """Return the size of each edge as a share of all edges into its target; a target without edges keeps zeros."""
    sizes = edges.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(edges.dtype).tiny)


def influence(
    share: Float[Tensor, "target source"], weights: Float[Tensor, " target"], of_features: Int[Tensor, " feature"]
) -> Float[Tensor, " source"]:
    """Return which share of the targets' weights comes from each source on all paths, direct and through features.

    The first targets are the features that are the sources `of_features`.
    """
    arriving, total = weights, share.new_zeros(share.shape[1])
    for _ in range(len(weights)):
        if not bool(arriving.any()):  # edges go up the layers alone: after as many steps nothing is on its way
            break
        reached = arriving @ share
        total += reached
        arriving = torch.zeros_like(weights)
        arriving[: len(of_features)] = reached[of_features]
    return total


def edge_influence(
    share: Float[Tensor, "target source"], weights: Float[Tensor, " target"], *, n_features: int
) -> Float[Tensor, "target source"]:
    """Return how much passes along each edge: its share of what its target passes on; the first targets and sources are features."""
    passing = weights.clone()
    passing[:n_features] += influence(share, weights, torch.arange(n_features, device=share.device))[:n_features]
    return share * passing[:, None]


def completeness(
    share: Float[Tensor, "target source"],
    weights: Float[Tensor, " target"],
    *,
    n_features: int,
    n_errors: int,
    counts_ends: bool = False,
) -> float:
    """Return the share of what targets read that comes from no error, targets counted by what they pass on.

    Sources are features, errors and what else paths begin at. With `counts_ends` these two are in the mean, as nodes that read nothing.
    """
    passed = influence(share, weights, torch.arange(n_features, device=share.device))
    passing = weights.clone()
    passing[:n_features] += passed[:n_features]
    from_errors = share[:, n_features : n_features + n_errors].sum(1) @ passing
    return (1 - from_errors / (passing.sum() + (passed[n_features:].sum() if counts_ends else 0))).item()


def cumulative(values: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    """Return for each value which share of all the values that are as large or larger make up, itself included."""
    ordered, order = values.sort(descending=True, stable=True)
    running = ordered.cumsum(0) / ordered.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.empty_like(values).scatter_(0, order, running)


@dataclass(frozen=True, eq=False)
class Pruning:
    """What is kept of a graph: the nodes that make up a share of the influence, and of the edges between them those that do."""

    sources: Bool[Tensor, " source"]
    edges: Bool[Tensor, "target source"]
    node_threshold: float
    edge_threshold: float


def prune(
    edges: Float[Tensor, "target source"],
    weights: Float[Tensor, " target"],
    *,
    n_features: int,
    n_tokens: int,
    node_threshold: float,
    edge_threshold: float,
) -> Pruning:
    """Keep the fewest nodes that make up `node_threshold` of the influence, then of the edges among them as they do.

    Tokens and logits stay. A feature that is left without an edge in or out goes, and an error without one out, until none is. Raises
    ValueError for a threshold outside 0 to 1.
    """
    for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= threshold <= 1:
            raise ValueError(f"{name} is {threshold}; expected a share, 0 to 1")
    features = torch.arange(n_features, device=edges.device)
    kept = _largest(influence(shares(edges), weights, features), node_threshold)
    kept[-n_tokens:] = True
    is_target = torch.cat([kept[:n_features], kept.new_ones(len(edges) - n_features)])
    among = edges * kept * is_target[:, None]
    kept_edges = _largest(edge_influence(shares(among), weights, n_features=n_features).flatten(), edge_threshold).view_as(
        edges
    ) & (among != 0)
    while True:
        before = int(kept.sum())
        kept[:-n_tokens] &= kept_edges[:, :-n_tokens].any(0)
        kept[:n_features] &= kept_edges[:n_features].any(1)
        kept_edges &= kept
        kept_edges[:n_features] &= kept[:n_features, None]
        if int(kept.sum()) == before:
            return Pruning(kept, kept_edges, node_threshold, edge_threshold)


def _largest(values: Float[Tensor, " value"], threshold: float) -> Bool[Tensor, " value"]:
    """Return which are the fewest of the largest values that make up such a share of all; none with 0."""
    ordered, order = values.sort(descending=True, stable=True)
    total = ordered.sum()
    if threshold == 1:
        return values > 0
    before = ordered.cumsum(0) - ordered
    return torch.empty_like(values, dtype=torch.bool).scatter_(0, order, (before < threshold * total) & (ordered > 0))


def strongest_paths(
    share: Float[Tensor, "target source"], weights: Float[Tensor, " target"], *, n_features: int, n_paths: int
) -> list[tuple[float, tuple[int, ...]]]:
    """Return the paths that carry most to the logits: the product of the shares along each, and its nodes from first to last.

    Sources are numbered as the columns are, logits after them. A path begins at an error or a token.
    """
    order = share.sort(dim=1, descending=True, stable=True)
    values, sources, n_sources = order.values.cpu(), order.indices.cpu(), share.shape[1]
    waiting: list[tuple[float, tuple[int, ...], float, int]] = []

    def wait(nodes: tuple[int, ...], weight: float, rank: int) -> None:
        """Let the path wait that goes on from `nodes` to the source that is so-many-th of the first of them."""
        target = nodes[0] if nodes[0] < n_features else n_features + nodes[0] - n_sources
        if rank < n_sources and (value := values[target, rank].item()) > 0:
            heapq.heappush(waiting, (-weight * value, nodes, weight, rank))

    for place, weight in enumerate(weights[n_features:].tolist()):
        wait((n_sources + place,), weight, 0)
    found: list[tuple[float, tuple[int, ...]]] = []
    while waiting and len(found) < n_paths:
        weight, nodes, before, rank = heapq.heappop(waiting)
        target = nodes[0] if nodes[0] < n_features else n_features + nodes[0] - n_sources
        longer = (int(sources[target, rank]), *nodes)
        wait(nodes, before, rank + 1)
        if longer[0] < n_features:
            wait(longer, -weight, 0)
        else:
            found.append((-weight, longer))
    return found
