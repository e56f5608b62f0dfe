"""The computation graph of a transformer: who writes to the residual stream, who reads it, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.nodes import KVInputs, Node, all_receivers, all_senders, parse_receivers, parse_sender

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
    `kv="query-head"` by each query head for itself, which is a graph of the model with its groups taken apart.
    """

    config: ModelConfig
    kv: KVInputs = "group"

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Who writes, in the order of the computation."""
        return tuple(all_senders(self.config))

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        """Who reads, in the order of the computation."""
        return tuple(all_receivers(self.config, kv=self.kv))

    @cached_property
    def has_edge(self) -> Bool[Tensor, "sender receiver"]:
        """Whether a sender has written when a receiver reads."""
        written = torch.tensor([2 * node.layer + (node.kind == "mlp") for node in self.senders])
        is_late = self.config.block == "sequential"  # there an MLP reads what its own layer's heads write
        read = torch.tensor([2 * node.layer + (node.kind == "mlp" and is_late) for node in self.receivers])
        read[-1] = 2 * self.config.n_layers  # the logits
        return written[:, None] < read

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.has_edge.sum())

    def edges(self) -> Iterator[Edge]:
        """Yield every edge, the receivers of a sender together."""
        for sender, receiver in self.has_edge.nonzero().tolist():
            yield Edge(self.senders[sender], self.receivers[receiver])

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
    def _sender_places(self) -> dict[Node, int]:
        return {node: i for i, node in enumerate(self.senders)}

    @cached_property
    def _receiver_places(self) -> dict[Node, int]:
        return {node: i for i, node in enumerate(self.receivers)}
