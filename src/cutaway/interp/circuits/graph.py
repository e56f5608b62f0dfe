"""The computation graph of a transformer: who writes to the residual stream, who reads it, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.feature_nodes import FeatureNodes, by_layer
from cutaway.interp.nodes import KVInputs, Node, all_receivers, all_senders, parse_receivers, parse_sender
from cutaway.model import Transformer

__all__ = ["Edge", "Graph"]


class Edge(NamedTuple):
    """What a sender writes to the residual stream, as one receiver reads it."""

    sender: Node
    receiver: Node

    def __str__(self) -> str:
        return f"{self.sender}->{self.receiver}"


@dataclass(frozen=True)
class Graph:
    """All senders and receivers of a model: a sender has an edge to every receiver that reads the stream after it writes.

    Senders are the embedding (all that enters the first layer, positions included), heads and MLPs; receivers are the queries, keys
    and values of heads, MLPs and the logits. With grouped heads keys and values are received once a group, or with
    `kv="query-head"` by each query head for itself, which is a graph of the model with its groups taken apart. Each of `features` is a
    sender and a receiver of its own, and the MLP that it is of is what they leave of it (`FeatureNodes`). Raises ValueError for two
    dictionaries of one MLP, and for one of an MLP that the model has not.
    """

    config: ModelConfig
    kv: KVInputs = "group"
    features: tuple[FeatureNodes, ...] = ()
    """Of the MLPs that are taken apart, in the order of their layers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(by_layer(self.features).values()))
        if wrong := [each for each in self.features if not (self.config.d_mlp and each.layer < self.config.n_layers)]:
            raise ValueError(f"there is no mlp{wrong[0].layer} in this model, whose features are to be nodes")

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Who writes, in the order of the computation."""
        return tuple(all_senders(self.config, self._feature_nodes))

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        """Who reads, in the order of the computation."""
        return tuple(all_receivers(self.config, self._feature_nodes, kv=self.kv))

    @cached_property
    def has_edge(self) -> Bool[Tensor, "sender receiver"]:
        """Whether a sender has written when a receiver reads."""
        written = torch.tensor([2 * node.layer + node.order[1] for node in self.senders])
        is_late = self.config.block == "sequential"  # there an MLP reads what its own layer's heads write
        read = torch.tensor([2 * node.layer + (node.order[1] and is_late) for node in self.receivers])
        read[-1] = 2 * self.config.n_layers  # the logits
        return written[:, None] < read

    @cached_property
    def feeds(self) -> Bool[Tensor, "receiver sender"]:
        """Whose output an input is part of: a head's queries are the head's alone, a group's keys are all its heads'."""
        size = self.config.n_heads // self.config.n_kv_heads
        feeds = torch.zeros(len(self.receivers), len(self.senders), dtype=torch.bool)
        for place, node in enumerate(self.receivers[:-1]):  # the logits are the end
            if node.kind == "group":
                heads = range(size * (node.index or 0), size * (1 + (node.index or 0)))
                feeds[place, [self._sender_places[Node("head", node.layer, head)] for head in heads]] = True
            else:
                feeds[place, self._sender_places[Node(node.kind, node.layer, node.index)]] = True
        return feeds

    def first_sender(self, layer: int) -> int:
        """Return the place of a layer's first head among the senders; the MLP and its features are the last before the next layer's."""
        return 1 + layer * (self.config.n_heads + bool(self.config.d_mlp)) + self._n_features_before(layer)

    def first_receiver(self, layer: int) -> int:
        """Return the place of a layer's first query among the receivers."""
        n_all = len(self.receivers) - 1 - len(self._feature_nodes)
        return layer * (n_all // max(1, self.config.n_layers)) + self._n_features_before(layer)

    def head_receivers(self, layer: int) -> dict[str, range]:
        """Return the places of a layer's queries, keys and values, those of all heads or groups in turn."""
        start, end = self.first_receiver(layer), self.mlp_receivers(layer).start
        keys = start + self.config.n_heads
        values = (keys + end) // 2
        return {"q": range(start, keys), "k": range(keys, values), "v": range(values, end)}

    def mlp_senders(self, layer: int) -> range:
        """Return the places among the senders of a layer's MLP and, after it, of its features; none where there is no MLP."""
        end = self.first_sender(layer + 1)
        return range(end - self._n_mlp(layer), end)

    def mlp_receivers(self, layer: int) -> range:
        """Return the same among the receivers."""
        end = self.first_receiver(layer + 1)
        return range(end - self._n_mlp(layer), end)

    def features_of(self, layer: int) -> FeatureNodes | None:
        """Return the features that a layer's MLP is taken apart into; None for an MLP that is one node."""
        return next((each for each in self.features if each.layer == layer), None)

    def open(self, model: Transformer, *, force: bool = False) -> Graph:
        """Return the same graph of this model with its dictionaries loaded; raises ValueError as `FeatureNodes.open` does."""
        return replace(self, config=model.config, features=tuple(each.open(model, force=force) for each in self.features))

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.has_edge.sum())

    def used(self, kept: Bool[Tensor, "sender receiver"]) -> Bool[Tensor, " sender"]:
        """Return the senders from which kept edges lead to the logits."""
        used = torch.zeros(len(self.senders), dtype=torch.bool)
        taken = torch.zeros(len(self.receivers), dtype=torch.bool)
        taken[-1] = True
        while not torch.equal(used, found := (kept & taken).any(1)):
            used = found
            taken = torch.cat([(self.feeds[:-1] & used).any(1), taken[-1:]])
        return used

    def connected(self, kept: Bool[Tensor, "sender receiver"]) -> Bool[Tensor, "sender receiver"]:
        """Return those of the kept edges that lie on a path of kept edges from the embedding to the logits."""
        reached = torch.zeros(len(self.senders), dtype=torch.bool)
        while not torch.equal(reached, found := self._reached(kept & reached[:, None])):
            reached = found
        used = self.used(kept & reached[:, None])
        taken = (self.feeds & used).any(1)
        taken[-1] = True
        return kept & reached[:, None] & taken

    def _reached(self, kept: Bool[Tensor, "sender receiver"]) -> Bool[Tensor, " sender"]:
        reached: Tensor = (self.feeds & kept.any(0)[:, None]).any(0)
        reached[0] = True  # the embedding
        return reached

    def layer_histogram(self, kept: Bool[Tensor, "sender receiver"]) -> tuple[int, ...]:
        """Return how many kept edges each layer's inputs take, the logits' last."""
        n_layers = self.config.n_layers
        layers = torch.tensor([n_layers if node.kind == "logits" else node.layer for node in self.receivers])
        counts: list[int] = torch.bincount(layers, weights=kept.sum(0).double(), minlength=n_layers + 1).long().tolist()
        return tuple(counts)

    def mask(self, edges: Iterable[Edge]) -> Bool[Tensor, "sender receiver"]:
        """Return where these edges are; raises ValueError for one that the graph does not have."""
        kept = torch.zeros_like(self.has_edge)
        for edge in edges:
            kept[self.place(edge)] = True
        return kept

    def edges_of(self, kept: Bool[Tensor, "sender receiver"]) -> Iterator[Edge]:
        """Yield the edges of a mask, the receivers of a sender together."""
        for sender, receiver in kept.nonzero().tolist():
            yield Edge(self.senders[sender], self.receivers[receiver])

    def edges(self) -> Iterator[Edge]:
        """Yield every edge, the receivers of a sender together."""
        yield from self.edges_of(self.has_edge)

    def place(self, edge: Edge) -> tuple[int, int]:
        """Return which sender and which receiver an edge joins; raises ValueError for one that the graph does not have."""
        try:
            place = self._sender_places[edge.sender], self._receiver_places[edge.receiver]
        except KeyError as error:
            raise ValueError(f"there is no {error.args[0]} in this graph") from None
        if not self.has_edge[place]:
            raise ValueError(f"{edge} is no edge: {edge.sender} writes after {edge.receiver} reads")
        return place

    def parse(self, text: str) -> Edge:
        """Return the edge that is written `L0H3->L1H2.k`; raises ValueError for one that the graph does not have."""
        sender, arrow, receiver = text.partition("->")
        if not arrow:
            raise ValueError(f"{text!r} is no edge: expected a sender and a receiver such as L0H3->L1H2.k")
        received = parse_receivers(self.config, receiver)
        if len(received) != 1:
            raise ValueError(f"{receiver!r} are three inputs: name one, such as {receiver}.k")
        edge = Edge(parse_sender(self.config, sender), received[0])
        self.place(edge)
        return edge

    @cached_property
    def _feature_nodes(self) -> tuple[Node, ...]:
        return tuple(node for each in self.features for node in each.nodes)

    def _n_features_before(self, layer: int) -> int:
        return sum(len(each.features) for each in self.features if each.layer < layer)

    def _n_mlp(self, layer: int) -> int:
        features = self.features_of(layer)
        return bool(self.config.d_mlp) + (0 if features is None else len(features.features))

    @cached_property
    def _sender_places(self) -> dict[Node, int]:
        return {node: i for i, node in enumerate(self.senders)}

    @cached_property
    def _receiver_places(self) -> dict[Node, int]:
        return {node: i for i, node in enumerate(self.receivers)}
