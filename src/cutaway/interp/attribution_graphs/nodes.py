"""The nodes of an attribution graph, and paths through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Kind", "Node", "Path"]

Kind = Literal["feature", "error", "mlp", "token", "logit"]
"""An mlp is what a layer without a transcoder gives: an error whole."""


@dataclass(frozen=True)
class Node:
    """One node: a feature, an error, a layer without a transcoder, a token or a logit."""

    kind: Kind
    layer: int | None
    pos: int
    number: int | None
    """A feature's as its transcoder counts, a token's id."""

    @property
    def id(self) -> str:
        """Its name among the nodes of one graph: `3_812_4` is feature 812 of layer 3 at position 4."""
        first = {"token": "E", "logit": "L"}.get(self.kind, str(self.layer))
        return f"{first}_{'error' if self.number is None else self.number}_{self.pos}"


@dataclass(frozen=True)
class Path:
    """One way from an error or a token to a logit, with the share of all that reaches the logits on it."""

    nodes: tuple[Node, ...]
    weight: float
