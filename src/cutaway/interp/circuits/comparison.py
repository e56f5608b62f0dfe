"""Two circuits of one model, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.graph import Edge
from cutaway.interp.nodes import Node

__all__ = ["CircuitComparison", "compare"]


@dataclass(frozen=True)
class CircuitComparison:
    """What two circuits have in common, and what each has alone."""

    edges: tuple[Edge, ...]
    """Those of both."""
    only_first: tuple[Edge, ...]
    only_second: tuple[Edge, ...]
    nodes: tuple[Node, ...]
    """Those of both."""
    n_nodes_of_either: int

    @property
    def edge_jaccard(self) -> float:
        """The edges of both over those of either; 1 for two empty circuits, which are the same."""
        n = len(self.edges) + len(self.only_first) + len(self.only_second)
        return len(self.edges) / n if n else 1.0

    @property
    def node_jaccard(self) -> float:
        """The nodes of both over those of either."""
        return len(self.nodes) / self.n_nodes_of_either if self.n_nodes_of_either else 1.0

    def __str__(self) -> str:
        return (
            f"{len(self.edges)} edges in both, {len(self.only_first)} and {len(self.only_second)} in one alone (Jaccard "
            f"{self.edge_jaccard:.2f}); {len(self.nodes)} nodes in both of {self.n_nodes_of_either} (Jaccard {self.node_jaccard:.2f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        parts: dict[str, Sequence[object]] = {
            "edges": self.edges,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "nodes": self.nodes,
        }
        return {name: list(map(str, part)) for name, part in parts.items()} | {
            "edge_jaccard": self.edge_jaccard,
            "node_jaccard": self.node_jaccard,
        }


def compare(first: Circuit, second: Circuit) -> CircuitComparison:
    """Return what two circuits have in common; raises ValueError for circuits of different models.

    >>> print(compare(found, known))  # doctest: +SKIP
    12 edges in both, 3 and 0 in one alone (Jaccard 0.80); 6 nodes in both of 7 (Jaccard 0.86)
    """
    either = set(first.nodes) | set(second.nodes)
    return CircuitComparison(
        edges=(first & second).edges,
        only_first=(first - second).edges,
        only_second=(second - first).edges,
        nodes=tuple(node for node in first.nodes if node in set(second.nodes)),
        n_nodes_of_either=len(either),
    )
