"""What all heads are by their weights: how strong their QK and OV circuits are, over how many directions, and how much they copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored.circuits import copying_scores, ov_circuit, qk_circuit
from cutaway.interp.factored.weights import block_of
from cutaway.interp.result import Result
from cutaway.model import Transformer
from cutaway.report import grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["HeadWeights", "head_weights", "effective_rank"]

_N_SHOWN, _N_LINES = 12, 12


@dataclass(frozen=True, eq=False, repr=False)
class HeadWeights(Result):
    """The spectra of every head's circuits, the linear parts of the norms within, and its copying score."""

    title: ClassVar[str] = "Heads by their weights"
    source: ClassVar[str] = 'Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (QK and OV circuits, copying)'

    layers: tuple[int, ...]
    ov: Float[Tensor, "layer head rank"]
    """The singular values of `W_V W_O`, falling."""
    qk: Float[Tensor, "layer head rank"]
    """The singular values of `W_Q W_K^T`, with rotary positions at one offset."""
    copying: Float[Tensor, "layer head"] | None
    """From -1 to 1; None where logits are not one for each token."""
    offset: int | None
    """Of the QK circuits: None where one holds for all."""

    @property
    def ov_rank(self) -> Float[Tensor, "layer head"]:
        """Over how many directions the OV circuit is spread."""
        return effective_rank(self.ov)

    @property
    def qk_rank(self) -> Float[Tensor, "layer head"]:
        """Over how many directions the QK circuit is spread."""
        return effective_rank(self.qk)

    def ranked(self) -> list[tuple[int, int]]:
        """Return the heads as (layer, head), those that copy most first; by the norm of OV where there are no scores of copying."""
        scores = self.ov.norm(dim=-1) if self.copying is None else self.copying
        order = scores.flatten().argsort(descending=True, stable=True).tolist()
        return [(self.layers[place // scores.shape[1]], place % scores.shape[1]) for place in order]

    def summary(self) -> str:
        """Return how many heads copy, which most and least, and over how many directions circuits are spread."""
        n_heads, rank = self.ov.shape[0] * self.ov.shape[1], self.ov.shape[2]
        spread = (
            f"Of {rank} directions the median OV circuit uses {float(self.ov_rank.median()):.1f} in effect, the median QK circuit "
            f"{float(self.qk_rank.median()):.1f}{'' if self.offset is None else f' (offset {self.offset})'}."
        )
        if self.copying is None:
            return spread
        first, last = self.ranked()[0], self.ranked()[-1]
        n_copy = int((self.copying > 0.5).sum())
        return (
            f"{n_copy} of {n_heads} heads have a copying score above 0.5; L{first[0]}H{first[1]} copies most "
            f"({self._at(self.copying, first):+.2f}), L{last[0]}H{last[1]} least ({self._at(self.copying, last):+.2f}). {spread}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the singular values and the copying score of every head."""
        return {
            "offset": self.offset,
            "heads": [
                {
                    "layer": layer,
                    "head": head,
                    "copying": None if self.copying is None else float(self.copying[place, head]),
                    "ov_singular_values": self.ov[place, head].tolist(),
                    "qk_singular_values": self.qk[place, head].tolist(),
                    "ov_effective_rank": float(self.ov_rank[place, head]),
                    "qk_effective_rank": float(self.qk_rank[place, head]),
                }
                for place, layer in enumerate(self.layers)
                for head in range(self.ov.shape[1])
            ],
        }

    def figures(self) -> list[Figure]:
        """Return maps of layers by heads, and of few heads their spectra."""
        from cutaway.plots import heatmap, lines

        rows, columns = [f"L{layer}" for layer in self.layers], [str(head) for head in range(self.ov.shape[1])]
        maps: list[tuple[str, Tensor, str, float | None]] = []
        maps += [("Copying score", self.copying, "score", 1.0)] if self.copying is not None else []
        maps += [
            ("Norm of OV", self.ov.norm(dim=-1), "Frobenius norm", None),
            ("Directions of OV", self.ov_rank, "in effect", None),
        ]
        maps += [
            ("Norm of QK", self.qk.norm(dim=-1), "Frobenius norm", None),
            ("Directions of QK", self.qk_rank, "in effect", None),
        ]
        figures = [
            heatmap(
                values.numpy(force=True),
                rows=rows,
                columns=columns,
                title=title,
                row_title="layer",
                column_title="head",
                label=label,
                signed=title == "Copying score",
                limit=limit,
            )
            for title, values, label, limit in maps
        ]
        if self.ov.shape[0] * self.ov.shape[1] > _N_LINES:
            return figures
        for name, values in (("OV", self.ov), ("QK", self.qk)):
            series = {
                f"L{layer}H{head}": (range(values.shape[2]), values[place, head].tolist())
                for place, layer in enumerate(self.layers)
                for head in range(values.shape[1])
            }
            figures.append(lines(series, title=f"Singular values of {name}", x_label="vector", y_label="singular value"))
        return figures

    def views(self) -> list[RenderableType]:
        """Return the heads that copy most and least, and the map of copying."""
        headers, rows = self.table()
        listed = table(*headers, right=headers[1:])
        shown = rows if len(rows) <= _N_SHOWN else [*rows[: _N_SHOWN // 2], *rows[-(_N_SHOWN // 2) :]]
        for row in shown:
            listed.add_row(*row)
        if self.copying is None or len(self.layers) < 2:
            return [listed]
        columns = [str(head) for head in range(self.ov.shape[1])]
        rows_said = [str(layer) for layer in self.layers]
        cells = grid(self.copying.numpy(force=True), rows=rows_said, columns=columns, signed=True, limit=1.0, corner="layer")
        return [listed, cells]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the norms, the directions and the copying score of every head."""
        maps = [self.ov.norm(dim=-1), self.ov_rank, self.qk.norm(dim=-1), self.qk_rank]
        rows = [
            (
                f"L{head[0]}H{head[1]}",
                "" if self.copying is None else f"{self._at(self.copying, head):+.2f}",
                *(f"{self._at(values, head):.2f}" for values in maps),
            )
            for head in self.ranked()
        ]
        return ("head", "copying", "OV norm", "OV directions", "QK norm", "QK directions"), rows

    def _at(self, values: Float[Tensor, "layer head"], head: tuple[int, int]) -> float:
        return float(values[self.layers.index(head[0]), head[1]])


def effective_rank(singular_values: Float[Tensor, "*heads rank"]) -> Float[Tensor, "*heads"]:
    """Return over how many directions a matrix is spread, `(sum S^2)^2 / sum S^4`: n for n equal singular values; 0 for zeros."""
    squares = singular_values.square()
    return squares.sum(dim=-1).square() / squares.square().sum(dim=-1).clamp_min(torch.finfo(squares.dtype).tiny)


@torch.no_grad()
def head_weights(model: Transformer, layer: int | None = None, *, offset: int = 1) -> HeadWeights:
    """Return the spectra of the QK and OV circuits and the copying scores of all heads, or of a layer's.

    The linear parts of the norms are in the circuits. `offset` (q_pos - k_pos) is for the QK circuits of rotary models. Raises
    ValueError as `qk_circuit` and for a layer that is not there. Source: Elhage et al. 2021.
    """
    n_layers = model.config.n_layers
    if layer is not None:
        block_of(model, layer)  # refuses a layer that is not there
    layers = range(n_layers) if layer is None else [layer % n_layers]
    copies = model.config.d_vocab_out == model.config.d_vocab
    return HeadWeights(
        layers=tuple(layers),
        ov=torch.stack([ov_circuit(model, each, with_norm=True).svd().S for each in layers]),
        qk=torch.stack([qk_circuit(model, each, offset=offset, with_norm=True).svd().S for each in layers]),
        copying=copying_scores(model)[list(layers)] if copies else None,
        offset=offset if model.rotary is not None else None,
    )
