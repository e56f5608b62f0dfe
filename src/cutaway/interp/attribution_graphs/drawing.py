"""An attribution graph as a picture: positions across, layers up, what is kept of it and how much of that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cutaway.interp.attribution_graphs.nodes import Node
from cutaway.report import token_label
from cutaway.report.numbers import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_nodes"]

_N_LINKS, _N_NAMED = 150, 3


def draw_nodes(
    nodes: Sequence[Node],
    links: Sequence[tuple[Node, Node, float]],
    *,
    kept: Mapping[str, int],
    words: Sequence[str],
    logits: Mapping[Node, str],
    n_layers: int,
    hrefs: Mapping[Node, str],
) -> Figure:
    """Return a figure of nodes and of the strongest of the links between them, whose title says how much that is of all that is kept.

    `kept` are the numbers of features, errors and edges, `words` those of the columns, `logits` the words of the logits. Tokens and
    logits are always drawn, others where a link is: a dot without one would look as if pruning did not keep it.
    """
    from cutaway.plots import Point, layered_graph

    among = {*nodes}
    links = sorted((link for link in links if {*link[:2]} <= among), key=lambda link: -abs(link[2]))[:_N_LINKS]
    linked = {node for *ends, _ in links for node in ends}
    shown = [node for node in nodes if node in linked or node.kind in ("token", "logit")]
    place = {node: number for number, node in enumerate(shown)}
    kinds = [{"mlp": "error"}.get(node.kind, node.kind) for node in shown] + ["edge"] * len(links)
    features, errors, edges = (_some(kinds.count(what), kept[what], what) for what in ("feature", "error", "edge"))
    named, more = [token_label(word) for word in logits.values()][:_N_NAMED], len(logits) - _N_NAMED

    def point(node: Node) -> Point:
        row = {"token": 0, "logit": n_layers + 1}.get(node.kind, (node.layer or 0) + 1)
        name = token_label(logits[node]) if node.kind == "logit" else str(node.number) if node.kind == "feature" else ""
        return Point(row, node.pos, name, node.kind not in ("error", "mlp"), hrefs.get(node, ""))

    return layered_graph(
        list(map(point, shown)),
        [(place[source], place[target], value) for source, target, value in links],
        rows=["tokens", *(f"layer {layer}" for layer in range(n_layers)), "logits"],
        columns=words,
        title=f"What leads to {', '.join(named)}{f' and {more} more' if more > 0 else ''}: {features}, {errors} and {edges}\n"
        "Numbers are features, open squares errors; blue edges raise, orange ones lower",
    )


def _some(n: int, n_all: int, what: str) -> str:
    """Return how many are drawn, and of how many where that is not all."""
    return counted(n, what) if n == n_all else f"{n:,} of {counted(n_all, what)}"
