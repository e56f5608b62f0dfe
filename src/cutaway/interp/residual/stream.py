"""The residual stream by layer: how long it is, how it turns, and what every part adds to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.prompts import Prompts
from cutaway.interp.residual.decomposition import accumulated_resid, decompose_resid
from cutaway.interp.result import Result
from cutaway.interp.rows import Texts, rows_of
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import hook_names, site_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import format_share, grid, table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["ResidualStream", "stream"]

_NEEDED = {"embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"}


@dataclass(frozen=True, eq=False, repr=False)
class ResidualStream(Result):
    """Lengths and directions of the stream by layer, and of what is added to it, averaged over rows.

    All but `norms` are averaged over positions too, without the first, where the stream is often of another size altogether.
    """

    title: ClassVar[str] = "Residual stream"
    source: ClassVar[str] = (
        "Heimersheim & Turner 2023, Residual stream norms grow exponentially over the forward pass; "
        "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
    )

    points: tuple[str, ...]
    """Where the stream was read: before every layer, and at the end."""
    positions: tuple[str, ...]
    norms: Float[Tensor, "point pos"]
    cosines: Float[Tensor, "point point"]
    """Of the stream at one point with the stream at another."""
    parts: tuple[str, ...]
    """What was added: embeddings, attention and MLP of each layer."""
    lengths: Float[Tensor, " part"]
    along: Float[Tensor, " part"]
    """What each adds along the stream that it is added to: above zero it makes it longer, below it takes away."""
    shares: Float[Tensor, " part"]
    """What each is of the stream at the end, along it: over all parts 1."""

    @property
    def mean_norms(self) -> Float[Tensor, " point"]:
        """The stream's length at every point, over all positions but the first."""
        return self.norms[:, 1:].mean(dim=1)

    def growth(self) -> tuple[float, float]:
        """Return by what the length is multiplied from layer to layer, and how well that describes it.

        The slope of the log of the length over layers, as a factor, and the share of variance that the line explains (R squared).
        """
        y = self.mean_norms.double().log()
        x = torch.arange(len(y), dtype=torch.float64) - (len(y) - 1) / 2
        deviation = y - y.mean()
        if len(y) < 2 or not deviation.any():
            return 1.0, 1.0
        slope = (x @ deviation / x.square().sum()).item()
        rest = (deviation - slope * x).square().sum() / deviation.square().sum()
        return math.exp(slope), 1 - rest.item()

    def first_position(self) -> tuple[float, str]:
        """Return how many times as long the stream is at the first position as elsewhere, where that is most, and where that is."""
        times, place = (self.norms[:, 0] / self.mean_norms).max(dim=0)
        return times.item(), self.points[int(place)]

    def summary(self) -> str:
        """Return how the length grows, how far the stream turns, and what makes most of it."""
        factor, fit = self.growth()
        norms = self.mean_norms
        share, part = max(zip(self.shares.tolist(), self.parts, strict=True))
        times, place = self.first_position()
        first = f" At the first position it is up to {times:.1f} times as long, at {place}." if times > 2 else ""
        return (
            f"The stream is {norms[0].item():.3g} long at first and {norms[-1].item():.3g} at the end, times {factor:.3f} a layer "
            f"(R² of the exponential {fit:.2f}).{first} Its cosine from beginning to end is {self.cosines[0, -1].item():.2f}. "
            f"Along the final stream, {part} adds most: {100 * share:.1f} %."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers under their names."""
        factor, fit = self.growth()
        return {
            "points": list(self.points),
            "positions": list(self.positions),
            "norms": self.norms.tolist(),
            "mean_norms": self.mean_norms.tolist(),
            "growth_per_layer": factor,
            "growth_r_squared": fit,
            "first_position": dict(zip(("times", "point"), self.first_position(), strict=True)),
            "cosines": self.cosines.tolist(),
            "parts": [
                {"part": part, "length": length, "along_stream": along, "share_of_final": share}
                for part, length, along, share in zip(
                    self.parts, self.lengths.tolist(), self.along.tolist(), self.shares.tolist(), strict=True
                )
            ],
        }

    def figures(self) -> list[Figure]:
        """Return lengths by layer and position, cosines between layers, and what each layer adds."""
        from cutaway.plots import heatmap, lines

        lengths = {"stream": (list(range(len(self.points))), self.mean_norms.tolist())}
        along: dict[str, tuple[list[int], list[float]]] = {}
        for name in ("attn", "mlp"):
            places = [place for place, part in enumerate(self.parts) if part.endswith(f" {name}")]
            if places:
                layers = [int(self.parts[place].split()[0][1:]) for place in places]
                lengths[f"{name} adds"] = layers, self.lengths[places].tolist()
                along[name] = layers, self.along[places].tolist()
        figures = [lines(lengths, title="Length by layer, without the first position", x_label="layer", y_label="length")]
        if along:
            title = "What each layer adds along the stream it is added to"
            figures.append(lines(along, title=title, x_label="layer", y_label="length along the stream"))
        figures += [
            heatmap(
                self.norms.log10().numpy(force=True),
                rows=self.points,
                columns=self.positions,
                title="Length of the stream",
                column_title="position",
                label="log10 of the length",
            ),
            heatmap(
                self.cosines.numpy(force=True),
                rows=self.points,
                columns=self.points,
                title="Cosine of the stream with itself at other layers",
                label="cosine",
                signed=True,
                limit=1.0,
            ),
        ]
        return figures

    def views(self) -> list[RenderableType]:
        """Return a line for every layer and the cosines of some of them."""
        header, rows = self.table()
        shown = table(*header, right=header[1:])
        for row in rows:
            shown.add_row(*row)
        every = max(1, -(-len(self.points) // 10))
        kept = sorted({*range(0, len(self.points), every), len(self.points) - 1})
        names = [self.points[place] for place in kept]
        cosines = grid(
            self.cosines[kept][:, kept].numpy(force=True), rows=names, columns=names, signed=True, limit=1.0, corner="cosine"
        )
        return [shown, cosines]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return for every layer the stream before it, and what its attention and MLP add: length, along the stream, share."""
        columns = [name for name in ("attn", "mlp") if any(part.endswith(f" {name}") for part in self.parts)]
        header = ("stream", "length", *(f"{name} {what}" for name in columns for what in ("adds", "along", "share")))
        rows = []
        for point, norm in zip(self.points, self.mean_norms.tolist(), strict=True):
            row = [point, self._written(norm)]
            for name in columns:
                part = f"{point.removesuffix(' pre')} {name}"
                place = self.parts.index(part) if part in self.parts else None
                row += ["", "", ""] if place is None else self._numbers(place)
            rows.append(row)
        return header, rows

    def _numbers(self, place: int) -> list[str]:
        share = format_share(self.shares[place].item(), 1)
        return [self._written(self.lengths[place].item()), self._written(self.along[place].item(), "+"), share]

    def _written(self, length: float, sign: str = "") -> str:
        """Return a length as exactly as the longest, which has four digits or so."""
        longest = self.mean_norms.max().item()
        digits = 1 if longest >= 100 else 2 if longest >= 10 else 3
        return f"{round(length, digits) + 0.0:{sign}.{digits}f}"  # -0.0 + 0.0 is 0.0


def stream(lm: LanguageModel | Transformer, tokens: Texts) -> ResidualStream:
    """Return how long the residual stream is before every layer, its cosines between layers, and what every part adds to it.

    Of a part `w` that is added to a stream `x`: its length, what it is along `x`, `w x / |x|`, and its share of the final stream
    `f`, `w f / |f|^2`, which over all parts is 1 exactly. Means are over rows and all positions but the first. Raises ValueError for
    texts of different length, and of one token. Source: Heimersheim & Turner 2023 (lengths, and why not the first position).

    >>> import cutaway
    >>> lm = cutaway.load("ioi-mini")
    >>> cutaway.residual.stream(lm, "When Mary and John went to the store , John gave a drink to").summary()
    'The stream is 0.591 long at first and 2.55 at the end...'
    """
    rows = rows_of(lm, tokens)
    if not rows.is_even:
        raise ValueError(f"the texts have {sorted(set(rows.lengths))} tokens; means over positions need texts of as many each")
    if rows.tokens.shape[1] == 1:
        raise ValueError("the text is one token, and the first position is left out of the means; give a longer one")
    prompts = Prompts.of(lm, rows.tokens)
    model = prompts.model
    model = without_dropout(model)
    with torch.inference_mode():
        names = [name for name in hook_names(model.config) if site_of(name).part in _NEEDED]
        _, cache = run_with_cache(model, prompts.tokens, names)
        streams, parts = accumulated_resid(cache), decompose_resid(cache)
    x = streams.values[:, :, 1:]  # point batch pos d_model
    unit = x / x.norm(dim=-1, keepdim=True)
    written = parts.values[:, :, -x.shape[2] :]
    final = x[-1]
    base = written.cumsum(dim=0) - written  # what each is added to: all those before it
    length = base.norm(dim=-1).clamp(min=torch.finfo(base.dtype).tiny)
    return ResidualStream(
        points=streams.labels,
        positions=tuple(prompts.source_labels()),
        norms=streams.values.norm(dim=-1).mean(dim=1),
        cosines=torch.stack([(unit * each).sum(dim=-1).mean(dim=(1, 2)) for each in unit]),
        parts=parts.labels,
        lengths=written.norm(dim=-1).mean(dim=(1, 2)),
        along=((written * base).sum(dim=-1) / length).mean(dim=(1, 2)),
        shares=((written * final).sum(dim=-1) / final.square().sum(dim=-1)).mean(dim=(1, 2)),
    )
