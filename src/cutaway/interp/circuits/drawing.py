"""A circuit to look at: as a picture, in a terminal, on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.graph import Edge
from cutaway.interp.nodes import Node
from cutaway.interp.result import Result
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["CircuitDrawing", "draw_circuit"]

_N_SHOWN, _N_LISTED, _N_DRAWN = 16, 500, 400


@dataclass(frozen=True, eq=False, repr=False)
class CircuitDrawing(Result):
    """A circuit with its nodes by layer and its edges by score."""

    title: ClassVar[str] = "Circuit"
    source: ClassVar[str] = (
        'circuits as edges between heads and MLPs (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Conmy et '
        "al. 2023)"
    )

    circuit: Circuit

    def summary(self) -> str:
        """Return how large it is, what it is of, and how it was found."""
        circuit = self.circuit
        heads, mlps, features = (sum(node.kind == kind for node in circuit.nodes) for kind in ("head", "mlp", "feature"))
        share = f"{len(circuit):,} of {circuit.graph.n_edges:,} edges ({100 * circuit.share:.2g} %)"
        of_features = f"{features} feature{'s' * (features != 1)}, " if circuit.graph.features else ""
        said = [
            f"{share} between {heads} head{'s' * (heads != 1)}, {mlps} MLP{'s' * (mlps != 1)}, {of_features}embedding and logits."
        ]
        if circuit.model:
            said.append(f"Of {circuit.model}.")
        if circuit.method:
            said.append(f"Found by {circuit.method}.")
        if n_loose := len(circuit) - len(circuit.connected()):
            said.append(f"{n_loose} edge{'s lie' if n_loose != 1 else ' lies'} on no path from the embedding to the logits.")
        said += self._read_so()
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return nodes by layer, and edges with their scores."""
        circuit = self.circuit
        scores = circuit.scores or (None,) * len(circuit)
        return {
            "model": circuit.model,
            "method": circuit.method,
            "settings": dict(circuit.settings),
            "n_edges_of_graph": circuit.graph.n_edges,
            "layer_histogram": circuit.edges_into,
            "nodes": list(map(str, circuit.nodes)),
            "edges": {str(edge): score for edge, score in zip(circuit.edges, scores, strict=True)},
        }

    def ranked(self) -> list[tuple[Edge, float | None]]:
        """Return the edges with their scores, the largest first; in the graph's order where they have none."""
        scores = self.circuit.scores or (None,) * len(self.circuit)
        return sorted(zip(self.circuit.edges, scores, strict=True), key=lambda pair: -abs(pair[1] or 0.0))

    def layers(self) -> list[tuple[str, list[Node]]]:
        """Return the nodes of each layer that has some, with the layer's name, from the embedding to the logits."""
        return [(name, list(nodes)) for name, nodes in groupby(self.circuit.nodes, _layer_of)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the edges by score."""
        rows = [[str(edge.sender), str(edge.receiver), "" if score is None else f"{score:+.4g}"] for edge, score in self.ranked()]
        return ["sender", "receiver", "score"], rows[:_N_LISTED]

    def figures(self) -> list[Figure]:
        """Return the picture: layers as rows, edges as wide as their score, those of the largest scores where there are very many."""
        from cutaway.plots import Arrow, Row, diagram

        if not len(self.circuit):
            return []
        n_heads = self.circuit.graph.config.n_heads
        rows = []
        for name, nodes in self.layers():
            apart = [str(node) for node in nodes if node.kind == "feature"]
            beside = [node for node in nodes if node.kind not in ("mlp", "feature")]
            rows.append(
                Row(
                    name,
                    {str(node): 0.5 if node.index is None else (node.index + 0.5) / n_heads for node in beside},
                    aside=next((str(node) for node in nodes if node.kind == "mlp"), None),  # it reads what the layer's heads write
                )
            )
            if apart:  # as these do
                rows.append(Row("its features", {node: (i + 0.5) / len(apart) for i, node in enumerate(apart)}))
        arrows = [
            Arrow(str(edge.sender), str(target), score, edge.receiver.input or "")
            for edge, score in self.ranked()[:_N_DRAWN]
            for target in self._read_by(edge.receiver)
        ]
        more = f", the {_N_DRAWN} of the largest score" if len(self.circuit) > _N_DRAWN else ""
        title = f"{len(self.circuit)} edges between {len(self.circuit.nodes)} nodes{more}{self._absent_said()}"
        return [diagram(rows, arrows, title=title, label="score")]

    def _read_so(self) -> list[str]:
        """Return what a score's sign means, where edges have scores, and what a group is, where some edge enters one."""
        said, circuit = [], self.circuit
        if circuit.scores and any(circuit.scores):
            carried = (
                "what the corrupted run has" if circuit.ablation == "resample" else f"what the {circuit.ablation} ablation leaves"
            )
            said.append(f"A score is what the metric gains when the edge carries {carried}: below 0, the edge helps the answer.")
        if group := next((edge.receiver for edge in circuit.edges if edge.receiver.kind == "group"), None):
            said.append(f"{group} is what group {group.index} of layer {group.layer}'s heads shares.")
        return said

    def _absent_said(self) -> str:
        """Return which layers have no node and so no row; nothing where all have some."""
        used = {node.layer for node in self.circuit.nodes if node.kind in ("head", "mlp", "feature")}
        absent = [layer for layer in range(self.circuit.graph.config.n_layers) if layer not in used]
        runs = [list(run) for _, run in groupby(absent, key=lambda layer: layer - absent.index(layer))]
        said = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        return f"; none in layer{'s' * (len(absent) > 1)} {said}" if absent else ""

    def _read_by(self, receiver: Node) -> list[Node]:
        """Return the nodes that a receiver is drawn as: the keys of a group enter each of its heads in the circuit."""
        if receiver.kind != "group":
            return [Node(receiver.kind, receiver.layer, receiver.index)]
        size = self.circuit.graph.config.n_heads // self.circuit.graph.config.n_kv_heads
        heads = [node for node in self.circuit.nodes if node.kind == "head" and node.layer == receiver.layer]
        return [head for head in heads if (head.index or 0) // size == receiver.index]

    def views(self) -> list[RenderableType]:
        """Return the nodes by layer, and the edges of the largest scores."""
        kinds = "heads, MLPs and features" if self.circuit.graph.features else "heads and MLPs"
        nodes = table("layer", kinds, "edges in", right=["edges in"], title="Nodes")
        histogram = self.circuit.layer_histogram
        for name, members in self.layers():
            layer = members[0].layer
            n_in = "" if members[0].kind == "embed" else str(histogram[layer])
            nodes.add_row(name, " ".join(map(str, members)), n_in)
        header, rows = self.table()
        edges = table(*header, right=["score"], title=f"{min(_N_SHOWN, len(rows))} of {len(self.circuit)} edges")
        for row in rows[:_N_SHOWN]:
            edges.add_row(*row)
        return [nodes, edges]


def draw_circuit(circuit: Circuit, path: Path | str | None = None) -> CircuitDrawing:
    """Return a circuit as a result to be shown; with a path write its picture too, in the kind that the ending says (.svg, .png, .pdf).

    Raises ValueError for another ending, and for a circuit without edges, of which there is no picture.
    """
    drawing = CircuitDrawing(circuit)
    if path is not None:
        from cutaway.plots import save_figure

        if not len(circuit):
            raise ValueError("the circuit has no edge, so there is nothing to draw")
        save_figure(drawing.figures()[0], path)
    return drawing


def _layer_of(node: Node) -> str:
    return node.kind if node.kind in ("embed", "logits") else f"layer {node.layer}"
