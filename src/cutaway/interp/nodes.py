"""Who sends and who receives, as they are written.

`L9H6` or 9.6 is a head, `L9H6.q` its queries, `L9G2.k` the keys that a group of heads shares, `mlp3` an MLP, `mlp3.17` a neuron,
`mlp3.f12` a feature of a dictionary there; `L9H6.q+L9H9.q` are receivers that take what they receive together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cutaway.config import ModelConfig
from cutaway.interp.attention import head_label

__all__ = [
    "Node", "NodeSet", "KVInputs", "all_senders", "all_receivers", "parse_sender", "parse_receivers", "parse_receiver_sets",
]  # fmt: skip

KVInputs = Literal["group", "query-head"]
"""Where heads share keys and values: whether the group receives these once, as in the model, or each query head for itself."""

_HEAD = re.compile(r"(?:L(\d+)H(\d+)|(\d+)\.(\d+))(?:\.([qkv]))?")
_GROUP = re.compile(r"L(\d+)G(\d+)\.([kv])")
_MLP = re.compile(r"mlp(\d+)(?:\.(f?)(\d+))?")


@dataclass(frozen=True)
class Node:
    """A sender, or one input of a receiver."""

    kind: Literal["embed", "head", "group", "mlp", "neuron", "feature", "logits"]
    """A group is of heads that share keys and values; it receives alone. Beside features, an MLP is what they leave of it."""
    layer: int = -1
    index: int | None = None
    """The head, counted among query heads, the group, the neuron, or the feature."""
    input: Literal["q", "k", "v"] | None = None
    """Which input of a head or group receives; None for other receivers, and for senders."""

    def __str__(self) -> str:
        match self.kind:
            case "head":
                return head_label(self.layer, self.index or 0) + (f".{self.input}" if self.input else "")
            case "group":
                return f"L{self.layer}G{self.index}.{self.input}"
            case "mlp":
                return f"mlp{self.layer}"
            case "neuron":
                return f"mlp{self.layer}.{self.index}"
            case "feature":
                return f"mlp{self.layer}.f{self.index}"
        return self.kind

    @property
    def order(self) -> tuple[int, int]:
        """When in a forward pass it writes."""
        return self.layer, int(self.kind in ("mlp", "neuron", "feature"))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Itself, as a set of nodes has those that it is of."""
        return (self,)


@dataclass(frozen=True)
class NodeSet:
    """Receivers that take what they receive together."""

    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.nodes))


def all_senders(config: ModelConfig, features: Sequence[Node] = ()) -> list[Node]:
    """Return the embedding, all heads and all MLPs, each with those of the features that are its own, in the computation's order."""
    senders = [Node("embed")]
    for layer in range(config.n_layers):
        senders += [Node("head", layer, head) for head in range(config.n_heads)]
        senders += _mlp(config, layer, features)
    return senders


def all_receivers(config: ModelConfig, features: Sequence[Node] = (), *, kv: KVInputs = "group") -> list[Node]:
    """Return queries, keys and values of all heads, or groups of them, all MLPs, each with its features, and the logits, in order."""
    receivers = []
    is_shared = kv == "group" and config.n_kv_heads < config.n_heads
    for layer in range(config.n_layers):
        receivers += [Node("head", layer, head, "q") for head in range(config.n_heads)]
        for each in ("k", "v"):
            n, kind = (config.n_kv_heads, "group") if is_shared else (config.n_heads, "head")
            receivers += [Node(kind, layer, index, each) for index in range(n)]  # type: ignore[arg-type]
        receivers += _mlp(config, layer, features)
    return [*receivers, Node("logits")]


def parse_sender(config: ModelConfig, text: str) -> Node:
    """Return the sender of this name; raises ValueError for one that the model does not have."""
    node = _parsed(config, text)
    if node is None or node.kind == "logits" or node.input is not None:
        raise ValueError(
            f"{text!r} is no sender: expected embed, a head such as L0H3, an MLP such as mlp0, its neuron mlp0.17 or feature "
            "mlp0.f17"
        )
    return node


def parse_receivers(config: ModelConfig, text: str) -> Sequence[Node]:
    """Return the receiver of this name, for a head by itself its queries, keys and values; raises ValueError as for senders."""
    node = _parsed(config, text)
    if node is None or node.kind == "embed":
        raise ValueError(
            f"{text!r} is no receiver: expected a head's input such as L1H2.q (or .k, .v; L1H2 is all three), an MLP such as mlp1, "
            "its neuron mlp1.17 or feature mlp1.f17, or logits"
        )
    if node.kind == "head" and node.input is None:
        return [Node("head", node.layer, node.index, each) for each in ("q", "k", "v")]
    return [node]


def parse_receiver_sets(config: ModelConfig, text: str) -> Sequence[Node | NodeSet]:
    """Return the receivers of this name: those joined by + as one set, and without + each by itself.

    Raises ValueError as `parse_receivers` does, and for the logits in a set: they take the whole stream, whatever the others did to it.
    """
    if "+" not in text:
        return parse_receivers(config, text)
    nodes = tuple(dict.fromkeys(node for name in text.split("+") for node in parse_receivers(config, name.strip())))
    if len(nodes) == 1:
        return nodes
    if any(node.kind == "logits" for node in nodes):
        raise ValueError(
            f"{text!r}: the logits take the whole stream, and what other receivers did to it would be lost: name them by themselves"
        )
    return [NodeSet(nodes)]


def _mlp(config: ModelConfig, layer: int, features: Sequence[Node]) -> list[Node]:
    return [Node("mlp", layer), *(each for each in features if each.layer == layer)] if config.d_mlp else []


def _parsed(config: ModelConfig, text: str) -> Node | None:
    if text in ("embed", "logits"):
        return Node(text)  # type: ignore[arg-type]
    if match := _HEAD.fullmatch(text):
        layer, head = int(match[1] or match[3]), int(match[2] or match[4])
        _check(text, "layer", layer, config.n_layers)
        _check(text, "head", head, config.n_heads)
        return Node("head", layer, head, match[5])  # type: ignore[arg-type]
    if match := _GROUP.fullmatch(text):
        layer, group = int(match[1]), int(match[2])
        _check(text, "layer", layer, config.n_layers)
        _check(text, "group", group, config.n_kv_heads)
        return Node("group", layer, group, match[3])  # type: ignore[arg-type]
    if match := _MLP.fullmatch(text):
        if config.d_mlp == 0:
            raise ValueError(f"{text!r}: this model has no MLPs")
        layer = int(match[1])
        _check(text, "layer", layer, config.n_layers)
        if match[3] is None:
            return Node("mlp", layer)
        if match[2]:
            return Node("feature", layer, int(match[3]))  # of how many its dictionary knows
        _check(text, "neuron", int(match[3]), config.d_mlp)
        return Node("neuron", layer, int(match[3]))
    return None


def _check(text: str, what: str, place: int, size: int) -> None:
    if place >= size:
        raise ValueError(f"{text!r}: there is no {what} {place}; there are {size}, 0 to {size - 1}")
