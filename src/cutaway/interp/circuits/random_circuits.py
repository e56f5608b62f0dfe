"""Random connected circuits with as many edges in each layer as a given one: what its faithfulness is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.interp.circuits.graph import Graph

__all__ = ["random_circuit", "random_circuits"]

_N_TRIES = 200


def random_circuits(
    graph: Graph, histogram: Sequence[int], n_circuits: int, *, generator: torch.Generator
) -> Iterator[Bool[Tensor, "sender receiver"]]:
    """Yield so many random circuits, each drawn by itself as `random_circuit` does.

    Every choice on the way is even, the circuits are not: in a small graph some come many times as often as others, those with few
    nodes in a layer above all, and the same may come twice.
    """
    for _ in range(n_circuits):
        yield random_circuit(graph, histogram, generator=generator)


def random_circuit(graph: Graph, histogram: Sequence[int], *, generator: torch.Generator) -> Bool[Tensor, "sender receiver"]:
    """Return random edges, so many into each layer and into the logits, all on paths from the embedding to the logits.

    It is built from the logits down. The nodes of a layer that are in use share the layer's edges: each gets one, the others go to
    any of their inputs, from any sender in whose layer edges are left for one node more. Where a layer would be left without a node
    in use, or its nodes cannot take its edges, the sender of an edge further up becomes one of the layer's. Each choice is even, so
    that circuits are not: one whose layer's edges go into few nodes comes more often than its share of all connected circuits, by
    several times where there are few of these. Raises ValueError where none is found.
    """
    if len(histogram) != graph.config.n_layers + 1:
        raise ValueError(
            f"the histogram has {len(histogram)} numbers; expected {graph.config.n_layers + 1}, the edges into each layer and into "
            "the logits"
        )
    for _ in range(_N_TRIES):
        draft = _Draft(graph, histogram, generator)
        if draft.fill():
            return draft.kept
    raise ValueError(
        f"no connected circuit with {', '.join(map(str, histogram))} edges into the layers and the logits was found in {_N_TRIES} tries"
    )


class _Draft:
    """A circuit while it is made, from the logits down: every node in use leads to the logits already."""

    def __init__(self, graph: Graph, histogram: Sequence[int], generator: torch.Generator) -> None:
        self.graph, self.histogram, self.generator = graph, list(histogram), generator
        self.layers = [node.layer for node in graph.senders]  # -1 for the embedding
        self.kept = torch.zeros_like(graph.has_edge)
        self.is_used = [False] * len(graph.senders)
        self.n_used = [0] * len(histogram)  # nodes of each layer; the last place, where the embedding is counted, nobody asks for

    def fill(self) -> bool:
        """Choose all edges; return whether it went well."""
        return all(self._fill(layer) for layer in reversed(range(len(self.histogram))))

    def _fill(self, layer: int) -> bool:
        n_left = self.histogram[layer]
        is_end = layer == len(self.histogram) - 1
        if not (is_end or self._make_room(layer)):
            return False
        while n_left:
            bare = [] if is_end else self._without_input(layer)
            columns = [len(self.graph.receivers) - 1] if is_end else self._inputs_of(bare[:1] or self._used_in(layer))
            n_added = self._add(columns, layer, n_most=1 if bare else n_left, n_spare=n_left - len(bare))
            if not n_added:
                return False
            n_left -= n_added
        return is_end or not self._without_input(layer)

    def _add(self, columns: list[int], layer: int, *, n_most: int, n_spare: int) -> int:
        """Keep up to so many random edges into these inputs and return how many; `n_spare` are those that no node waits for."""
        n_added = 0
        for sender, column in self._shuffled((self.graph.has_edge & ~self.kept)[:, columns]):
            from_layer, is_new = self.layers[sender], not self.is_used[sender]
            if is_new and from_layer == layer and n_spare - n_added - (n_most > 1) < 1:
                continue  # the head would need an edge of this layer for itself
            if is_new and 0 <= from_layer < layer and self.n_used[from_layer] >= self.histogram[from_layer]:
                continue
            self._keep(sender, columns[column])
            n_added += 1
            if n_added == n_most or (is_new and from_layer == layer):
                break
        return n_added

    def _make_room(self, layer: int) -> bool:
        """Bring nodes of the layer into use until they can take its edges; return whether they can."""
        n_edges = self.histogram[layer]
        while n_edges and not (self.n_used[layer] and self._n_open(layer) >= n_edges):
            if self.n_used[layer] >= n_edges or not self._bring_in(layer):
                return False
        return True

    def _n_open(self, layer: int) -> int:
        """Return how many edges the nodes in use in a layer could take."""
        rows = torch.tensor(
            [
                used or of < 0 or of == layer or self.n_used[of] < self.histogram[of]
                for used, of in zip(self.is_used, self.layers, strict=True)
            ]
        )
        return int((self.graph.has_edge & rows[:, None])[:, self._inputs_of(self._used_in(layer))].sum())

    def _bring_in(self, layer: int) -> bool:
        """Put a node of the layer in the place of an edge's sender that can be spared; return whether there is one."""
        fresh = torch.tensor([of == layer and not used for of, used in zip(self.layers, self.is_used, strict=True)])
        n_readers = self.kept.sum(1).tolist()
        spared = torch.tensor([of < layer or (of == layer and n > 1) for of, n in zip(self.layers, n_readers, strict=True)])
        for sender, receiver in self._shuffled(self.kept & spared[:, None]):
            choices = (fresh & self.graph.has_edge[:, receiver]).nonzero()[:, 0]
            if len(choices):
                self.kept[sender, receiver] = False
                if n_readers[sender] == 1:
                    self.is_used[sender] = False
                    self.n_used[self.layers[sender]] -= 1
                self._keep(int(choices[torch.randint(len(choices), (), generator=self.generator)]), receiver)
                return True
        return False

    def _keep(self, sender: int, receiver: int) -> None:
        self.kept[sender, receiver] = True
        self.n_used[self.layers[sender]] += not self.is_used[sender]
        self.is_used[sender] = True

    def _used_in(self, layer: int) -> list[int]:
        """Return a layer's nodes in use, the MLP first: it may bring heads of its own layer into use."""
        first = self.graph.first_sender(layer)
        return [sender for sender in reversed(range(first, self.graph.first_sender(layer + 1))) if self.is_used[sender]]

    def _without_input(self, layer: int) -> list[int]:
        fed = (self.graph.feeds & self.kept.any(0)[:, None]).any(0)
        return [sender for sender in self._used_in(layer) if not fed[sender]]

    def _inputs_of(self, senders: list[int]) -> list[int]:
        inputs: list[int] = self.graph.feeds[:, senders].any(1).nonzero()[:, 0].tolist()
        return inputs

    def _shuffled(self, places: Tensor) -> Iterator[list[int]]:
        """Yield where a mask is true, in random order."""
        found = places.nonzero()
        yield from found[torch.randperm(len(found), generator=self.generator)].tolist()
