"""Runs in which some heads read the prompts as they are and all others write what they make of other prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway import ModelConfig, Transformer
from cutaway.interp.circuits import Circuit, CircuitRuns, Graph
from cutaway.interp.metrics import Metric
from cutaway.interp.nodes import Node

__all__ = ["Head", "HeadCircuits", "all_heads"]

Head = tuple[int, int]
"""Layer and head."""


def all_heads(config: ModelConfig) -> list[Head]:
    """Return the heads of a model, layer by layer."""
    return [(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads)]


class HeadCircuits:
    """Circuits of the embedding, all MLPs and some heads."""

    def __init__(
        self, model: Transformer, tokens: Int[Tensor, "batch pos"], other_tokens: Int[Tensor, "batch pos"], metric: Metric
    ) -> None:
        self.heads = all_heads(model.config)
        self._graph, self._metric = Graph(model.config), metric
        whole = Circuit(self._graph, tuple(self._graph.edges()))
        self._runs = CircuitRuns.of(model, tokens, whole, other_tokens=other_tokens)
        self._least, self._most = (self._measured(heads) for heads in ([], self.heads))

    def share(self, heads: Sequence[Head]) -> float:
        """Return which share these heads bring about of what all heads do to the metric, the mean over prompts."""
        return (self._measured(heads) - self._least) / (self._most - self._least)

    def others(self, heads: Sequence[Head]) -> list[Head]:
        """Return all heads but these."""
        return [head for head in self.heads if head not in heads]

    def enough(self, share: float) -> list[Head]:
        """Return heads that bring so much about: the one that adds most to those before it next, until it is enough."""
        found: list[Head] = []
        while self.share(found) < share:
            found.append(max(self.others(found), key=lambda head: self.share([*found, head])))
        return found

    def n_enough(self, share: float, order: Sequence[Head]) -> int:
        """Return how many heads in the order that is given bring so much about."""
        return next((n for n in range(len(order)) if self.share(order[:n]) >= share), len(order))

    def random_orders(self, n_orders: int, *, generator: torch.Generator) -> list[list[Head]]:
        """Return all heads in orders drawn at random."""
        orders = (torch.randperm(len(self.heads), generator=generator).tolist() for _ in range(n_orders))
        return [[self.heads[place] for place in order] for order in orders]

    def _measured(self, heads: Sequence[Head]) -> float:
        def is_in(node: Node) -> bool:
            return node.kind != "head" or (node.layer, node.index) in heads

        kept = [edge for edge in self._graph.edges() if is_in(edge.sender) and is_in(edge.receiver)]
        return self._runs.metric(self._graph.mask(kept), self._metric).mean().item()
