"""Composition: how much of what a later head reads is what an earlier one writes, from the weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored import W_O, W_V, block_of, centred, qk_circuit, read_through
from cutaway.interp.result import Result
from cutaway.interp.tensors import finite_or_none
from cutaway.model import Transformer
from cutaway.model.norms import at_least_float32
from cutaway.report import grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Composition", "ComposedPair", "CompositionScores", "composition_scores"]

Composition = Literal["q", "k", "v"]
"""What of a later head reads the earlier one: its queries, its keys or its values."""

_N_SHOWN = 10


class ComposedPair(NamedTuple):
    """An earlier head, the later head that reads it, and how strongly; `excess` is the score less the baseline.

    `deviations` says how far the score's square lies above that of a head turned at random, in standard deviations of the latter.
    """

    layer: int
    head: int
    later_layer: int
    later_head: int
    score: float
    excess: float
    deviations: float


@dataclass(frozen=True, eq=False, repr=False)
class CompositionScores(Result):
    """The composition of every two heads of a model, by what of the later head reads."""

    title: ClassVar[str] = "Composition of heads"
    source: ClassVar[str] = 'Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"'

    scores: Mapping[Composition, Float[Tensor, "layer head later_layer later_head"]]
    """From 0 to 1, NaN where the second layer is not later."""
    deviations: Mapping[Composition, Float[Tensor, "layer head later_layer later_head"]]
    """How far each score's square lies above its mean when one of the two heads is turned at random, in standard deviations."""
    baseline: float
    """The root mean square of the score when one head is turned at random in the residual stream."""
    offset: int | None
    """The q_pos - k_pos of rotary QK circuits, None for their mean over all turns, or where nothing turns."""

    def score(self, kind: Composition, earlier: tuple[int, int], later: tuple[int, int]) -> float:
        """Return the score of two (layer, head).

        Raises ValueError when the second is not in a later layer.
        """
        if earlier[0] >= later[0]:
            raise ValueError(f"heads of layer {later[0]} read none of layer {earlier[0]}: give (layer, head) of the earlier first")
        return self.scores[kind][(*earlier, *later)].item()

    def strongest(self, kind: Composition, *, n_pairs: int = _N_SHOWN) -> list[ComposedPair]:
        """Return the pairs that compose most, the strongest first."""
        scores = self.scores[kind]
        n_pairs = min(n_pairs, int(scores.isfinite().sum()))
        values, places = scores.nan_to_num(nan=-1.0).flatten().topk(n_pairs)
        axes = torch.stack(torch.unravel_index(places, scores.shape), dim=-1).tolist()  # pair axis
        return [
            ComposedPair(
                layer, head, later, reader, value, value - self.baseline, self.deviations[kind][layer, head, later, reader].item()
            )
            for (layer, head, later, reader), value in zip(axes, values.tolist(), strict=True)
        ]

    def summary(self) -> str:
        """Return the strongest pair of each kind beside the baseline."""
        best = [
            f"{_label(pair.later_layer, pair.later_head)} reads {_label(pair.layer, pair.head)} through its {_WORDS[kind]} "
            f"({pair.score:.3f}, {pair.deviations:.0f} standard deviations above chance)"
            for kind in self.scores
            for pair in self.strongest(kind, n_pairs=1)
        ]
        return f"Strongest by kind: {', '.join(best)}. A head turned at random in the stream scores {self.baseline:.3f}."

    def to_dict(self) -> dict[str, Any]:
        """Return all scores as nested lists by layer, head, later layer, later head, None where the second is not later."""
        return {
            "baseline": self.baseline,
            "offset": self.offset,
            "strongest": {kind: [pair._asdict() for pair in self.strongest(kind)] for kind in self.scores},
            "scores": {kind: finite_or_none(scores.tolist()) for kind, scores in self.scores.items()},
        }

    def figures(self) -> list[Figure]:
        """Return for each kind a map of all pairs, each score less the baseline."""
        from cutaway.plots import heatmap

        return [
            heatmap(
                rearrange(scores[:-1, :, 1:] - self.baseline, "layer head later reader -> (layer head) (later reader)").numpy(
                    force=True
                ),
                rows=[_label(layer, head) for layer in range(scores.shape[0] - 1) for head in range(scores.shape[1])],
                columns=[_label(layer, head) for layer in range(1, len(scores)) for head in range(scores.shape[3])],
                title=f"{kind.upper()}-composition",
                row_title="writes",
                column_title=f"reads through {_WORDS[kind]}",
                label="score less baseline",
                signed=True,
            )
            for kind, scores in self.scores.items()
        ]

    def views(self) -> list[RenderableType]:
        """Return for each kind the strongest pairs, and the strongest of every two layers."""
        views: list[RenderableType] = []
        for kind, scores in self.scores.items():
            headers = ("writes", "reads", "score", "less baseline", "deviations")
            pairs = table(
                *headers, right=headers[2:], title=f"{kind.upper()}-composition: {_WORDS[kind]} that read an earlier head"
            )
            for row in self._rows(kind):
                pairs.add_row(*row)
            best = scores[:-1, :, 1:].nan_to_num(nan=-math.inf).amax(dim=(1, 3)) - self.baseline  # layer later_layer
            layers = [f"L{layer}" for layer in range(len(scores))]
            views += [
                pairs,
                grid(
                    best.masked_fill(best.isinf(), math.nan).numpy(force=True),
                    rows=layers[:-1],
                    columns=layers[1:],
                    signed=True,
                    corner="best",
                ),
            ]
        return views

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the strongest pairs of every kind."""
        rows = [(f"{kind.upper()}-composition", *row) for kind in self.scores for row in self._rows(kind)]
        return ("kind", "writes", "reads", "score", "less baseline", "deviations"), rows

    def _rows(self, kind: Composition) -> list[tuple[str, ...]]:
        return [
            (
                _label(pair.layer, pair.head),
                _label(pair.later_layer, pair.later_head),
                f"{pair.score:.3f}",
                f"{pair.excess:+.3f}",
                f"{pair.deviations:.1f}",
            )
            for pair in self.strongest(kind)
        ]


@torch.no_grad()
def composition_scores(
    model: Transformer, kinds: Sequence[Composition] = ("q", "k", "v"), *, offset: int | None = None
) -> CompositionScores:
    """Return `||W_OV M|| / (||W_OV|| ||M||)` (Frobenius) of every earlier head's `W_OV` and later head's `M`.

    As row vectors go through them, `W_OV = W_V W_O`, and `M` is `W_Q W_K^T` for Q-composition, `W_K W_Q^T` for K and `W_V W_O` for V.
    The linear parts of ln1 are folded into all that reads (and with LayerNorm the mean taken off all that is written), so that
    weights of one function have one score; layers between the heads are left out.

    - Heads that share keys or values: each query head is scored with what its own `W_Q` (for V its `W_O`) makes of them, so that what
      the group keeps for its other heads does not count.
    - Rotary positions: the turn stands between `W_Q` and `W_K` and depends on the offset. With `offset` (q_pos - k_pos) `M` is the QK
      circuit there; without, squares of norms are means over all turns, each plane's angle drawn evenly: a plane counts by the length
      of the keys times that of the queries in it.
    - Baseline: if one of the heads is turned at random in the stream, as independent Gaussian factors are, the mean of the square is
      exactly `1 / d_model` for any two spectra (`d_model - 1` with LayerNorm). Its root is a little above the mean of the score. The
      standard deviation of the square depends on the spectra, and `deviations` are measured in it: it is
      `sqrt(2 (x - 1/d) (y - 1/d) / ((d - 1) (d + 2)))`, x and y the sums of the fourth powers of the singular values of unit norm.

    No d_model x d_model matrix is formed: with `A = Q R`, `||A B|| = ||R B||`, so a head writes through `R_V W_O` and reads through
    `W_K R_Q^T`, thin both. Computed in float32 or more. Raises ValueError for a model of fewer than two layers.
    Source: Elhage et al. 2021, "Three Kinds of Composition".
    """
    config = model.config
    if config.n_layers < 2:
        raise ValueError(f"the model has n_layers {config.n_layers}, and heads compose across layers: give one with at least 2")
    if unknown := [kind for kind in kinds if kind not in _WORDS]:
        raise ValueError(f"there is no composition {unknown[0]!r}; give some of {', '.join(map(repr, _WORDS))}")
    writing = [_writing(model, layer) for layer in range(config.n_layers)]
    d = config.d_model - (config.norm == "layernorm")
    scores, deviations = {}, {}
    for kind in kinds:
        reading = [_READING[kind](model, layer, offset) for layer in range(config.n_layers)]
        scores[kind] = _scores(writing, reading)
        deviations[kind] = (scores[kind].square() - 1 / d) / _deviation(writing, reading, d)
    return CompositionScores(scores, deviations, 1 / math.sqrt(d), offset if model.rotary is not None else None)


_WORDS: dict[Composition, str] = {"q": "queries", "k": "keys", "v": "values"}


def _scores(
    writing: Sequence[Float[Tensor, "head d_write d_model"]], reading: Sequence[Float[Tensor, "later_head d_model d_read"]]
) -> Float[Tensor, "layer head later_layer later_head"]:
    """Return the norm of every product of an earlier layer's with a later one's, over the product of their norms."""
    n_layers, n_writers, n_readers = len(writing), len(writing[0]), len(reading[0])
    scores = writing[0].new_full((n_layers, n_writers, n_layers, n_readers), math.nan)
    rows = [rearrange(_unit(W), "head d_write d_model -> (head d_write) d_model") for W in writing]
    for later in range(1, n_layers):
        columns = rearrange(_unit(reading[later]), "reader d_model d_read -> d_model (reader d_read)")
        for layer in range(later):
            products = rows[layer] @ columns
            parts = rearrange(
                products, "(head d_write) (reader d_read) -> head reader (d_write d_read)", head=n_writers, reader=n_readers
            )
            scores[layer, :, later] = parts.norm(dim=-1)
    return scores


def _deviation(
    writing: Sequence[Float[Tensor, "head d_write d_model"]], reading: Sequence[Float[Tensor, "later_head d_model d_read"]], d: int
) -> Float[Tensor, "layer head later_layer later_head"]:
    """Return the standard deviation of the squared score of every two heads when one is turned at random.

    Symmetric matrices without a trace are an irreducible representation of the rotations, of (d - 1)(d + 2) / 2 dimensions: so the
    product of one, turned, with another has as mean square the product of their squared norms over that number.
    """
    written = torch.stack([torch.linalg.matrix_norm(W @ W.mT).square() for W in map(_unit, writing)])  # layer head
    read = torch.stack([torch.linalg.matrix_norm(W.mT @ W).square() for W in map(_unit, reading)])  # later_layer later_head
    apart = (written - 1 / d).clamp(min=0)[:, :, None, None] * (read - 1 / d).clamp(min=0)
    return (2 * apart / ((d - 1) * (d + 2))).sqrt()


def _writing(model: Transformer, layer: int) -> Float[Tensor, "head d_write d_model"]:
    """Return a matrix with the norms of `W_V W_O` for every head: `R_V W_O`."""
    norm = block_of(model, layer).ln1
    return _r(read_through(norm, W_V(model, layer))) @ centred(norm, at_least_float32(W_O(model, layer)))


def _reading_of_queries(model: Transformer, layer: int, offset: int | None) -> Float[Tensor, "head d_model d_read"]:
    queries, keys = _queries_and_keys(model, layer, offset)
    return _met(model, queries, keys, is_turned=offset is not None)


def _reading_of_keys(model: Transformer, layer: int, offset: int | None) -> Float[Tensor, "head d_model d_read"]:
    queries, keys = _queries_and_keys(model, layer, offset)
    return _met(model, keys, queries, is_turned=offset is not None)


def _reading_of_values(model: Transformer, layer: int, _offset: int | None) -> Float[Tensor, "head d_model d_read"]:
    norm = block_of(model, layer).ln1
    values = at_least_float32(read_through(norm, W_V(model, layer)))
    return values @ _r(centred(norm, W_O(model, layer)).mT).mT


def _met(
    model: Transformer,
    reading: Float[Tensor, "head d_model d_head"],
    other: Float[Tensor, "head d_model d_head"],
    *,
    is_turned: bool,
) -> Float[Tensor, "head d_model d_read"]:
    """Return a matrix with the norms of `reading other^T` under every product from the left.

    Where a turn that is not known stands between them it has the root of their mean square over all turns: the mean of `R^T X R` over
    the angles of a plane is half the trace of X, and planes do not mix.
    """
    if model.rotary is None or is_turned:
        return reading @ _r(other).mT
    n = model.rotary.rotary_dim
    planes = other[..., :n].square().sum(1).unflatten(-1, (2, n // 2)).sum(1)  # head pair: coordinates i and i + n / 2
    weights = (planes / 2).sqrt().repeat(1, 2)
    turned = reading[..., :n] * weights[:, None]
    return torch.cat([turned, reading[..., n:] @ _r(other[..., n:]).mT], dim=-1) if n < reading.shape[-1] else turned


_READING = {"q": _reading_of_queries, "k": _reading_of_keys, "v": _reading_of_values}


def _queries_and_keys(
    model: Transformer, layer: int, offset: int | None
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_model d_head"]]:
    circuit = qk_circuit(model, layer, offset=offset or 0, with_norm=True)
    return at_least_float32(circuit.A), at_least_float32(circuit.B.mT)


def _r(W: Float[Tensor, "head d_in d_head"]) -> Float[Tensor, "head d_small d_head"]:
    """Return the triangle of a QR decomposition, which has W's norms under every product from the right."""
    R: Tensor = torch.linalg.qr(at_least_float32(W), mode="r")[1]
    return R


def _unit(W: Float[Tensor, "head row column"]) -> Float[Tensor, "head row column"]:
    """Return every head's matrix over its norm; one of zeros stays so."""
    norm: Tensor = torch.linalg.matrix_norm(W)[:, None, None]
    return W / torch.where(norm > 0, norm, 1.0)


def _label(layer: int, head: int) -> str:
    return f"L{layer}H{head}"
