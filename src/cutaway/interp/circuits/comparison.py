"""Two circuits of one model, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.graph import Edge
from cutaway.interp.nodes import Node
from cutaway.interp.result import Result
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["CircuitComparison", "compare"]


_N_SHOWN = 8


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitComparison(Result):
    """What two circuits have in common, and what each has alone."""

    title: ClassVar[str] = "Circuits compared"
    source: ClassVar[str] = 'circuits as sets of edges (Hanna et al. 2024, "Have Faith in Faithfulness")'

    edges: tuple[Edge, ...]
    """Those of both."""
    only_first: tuple[Edge, ...]
    only_second: tuple[Edge, ...]
    nodes: tuple[Node, ...]
    """Those of both."""
    n_nodes_of_either: int
    names: tuple[str, str] = ("the first", "the second")
    """What the circuits are called."""

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

    @property
    def parts(self) -> dict[str, tuple[Edge, ...]]:
        """The edges of both and of one alone, by whose they are."""
        first, second = (f"{name} alone" for name in self.names)
        return {"both": self.edges, first: self.only_first, second: self.only_second}

    def summary(self) -> str:
        """Return how many edges and nodes are in both, and in one alone."""
        return f"{self.names[0]} and {self.names[1]}: {self}."

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return every edge, and whose it is."""
        return ["edge", "in"], [[str(edge), part] for part, edges in self.parts.items() for edge in edges]

    def figures(self) -> list[Figure]:
        """Return how many edges are whose."""
        from cutaway.plots import bars

        return [bars([len(each) for each in self.parts.values()], labels=list(self.parts), title="Edges of the two", label="edges")]

    def views(self) -> list[RenderableType]:
        """Return some of the edges of each part, and how many more there are."""
        shown = table("edges of", "", "first of them", right=[""])
        for part, edges in self.parts.items():
            first = ", ".join(map(str, edges[:_N_SHOWN])) + (", ..." if len(edges) > _N_SHOWN else "")
            shown.add_row(part, str(len(edges)), first)
        return [shown]

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


def compare(first: Circuit, second: Circuit, *, names: tuple[str, str] = ("the first", "the second")) -> CircuitComparison:
    """Return what two circuits have in common, under what they are called; raises ValueError for circuits of different models.

    >>> import cutaway
    >>> from cutaway import circuits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> few, many = (circuits.select_circuit(lm.model, clean, corrupted, answer, n_edges=n).circuit for n in (10, 20))
    >>> print(circuits.compare(few, many))
    9 edges in both, 0 and 11 in one alone (Jaccard 0.45); 6 nodes in both of 10 (Jaccard 0.60)
    """
    either = set(first.nodes) | set(second.nodes)
    return CircuitComparison(
        edges=(first & second).edges,
        only_first=(first - second).edges,
        only_second=(second - first).edges,
        nodes=tuple(node for node in first.nodes if node in set(second.nodes)),
        n_nodes_of_either=len(either),
        names=names,
    )
