"""What a crosscoder says of two models: which latents both have, and which one of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp.result import Result
from cutaway.report import Context, HtmlReport, context_list, filled_table, format_fixed, token_label
from cutaway.report.tokens import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["ComparedLatent", "ModelComparison"]

_ONE_SIDED = 0.1  # of the sum of the two lengths
_UNALIKE = 0.1  # a mean cosine at which directions have nothing to do with each other
_N_BINS, _N_PEAKS = 10, 4


@dataclass(frozen=True, kw_only=True)
class ComparedLatent:
    """A latent of both models, or of one, and where it is strongest."""

    latent: int
    whose: str
    relative: float
    cosine: float
    density: float
    """In which share of the rows it fires."""
    contexts: tuple[Context, ...]
    """The windows in which it is strongest, one context a window."""

    @property
    def peaks(self) -> str:
        """The tokens at the peaks of its contexts, each once."""
        tokens = dict.fromkeys(token_label(each.tokens[each.peak]) for each in self.contexts)
        return " ".join(list(tokens)[:_N_PEAKS])


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Result):
    """The latents of a crosscoder of two models: which are of both, and which of one."""

    title: ClassVar[str] = "Crosscoder"
    source: ClassVar[str] = 'Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing"'

    norms: Float[Tensor, "2 d_sae"]
    """The length of each latent's direction in either model, in units of its usual activation."""
    cosines: Float[Tensor, " d_sae"]
    """Between the two directions of a latent."""
    names: tuple[str, str] = ("the first model", "the second model")
    """What the models are called."""
    activation: str = ""
    density: Float[Tensor, " d_sae"] | None = None
    """In which share of the rows each latent fires, where that was measured."""
    n_rows: int = 0
    """How many were looked at."""
    fvu: tuple[float, float] | None = None
    """Of either model: the fraction of variance unexplained on these rows."""
    shown: tuple[ComparedLatent, ...] = ()
    """Some of each kind, those that carry most first."""

    @property
    def relative(self) -> Float[Tensor, " d_sae"]:
        """The second model's share of the two lengths' sum: 0 is the first model's alone, 1 the second's, 0.5 both alike."""
        shares: Tensor = self.norms[1] / self.norms.sum(0)
        return shares

    @property
    def is_live(self) -> Bool[Tensor, " d_sae"]:
        """Which latents fire at all; all where that was not measured. What never fires has a direction that says nothing."""
        return torch.ones_like(self.relative, dtype=torch.bool) if self.density is None else self.density > 0

    @property
    def parts(self) -> dict[str, Bool[Tensor, " d_sae"]]:
        """The latents that fire by whose they are; one model's alone have less than a tenth of their length in the other."""
        first, second = self.relative < _ONE_SIDED, self.relative > 1 - _ONE_SIDED
        kinds = {"both": ~first & ~second, self.names[0]: first, self.names[1]: second}
        return {whose: is_its & self.is_live for whose, is_its in kinds.items()}

    def summary(self) -> str:
        """Return how many latents are of one model alone, how alike the shared ones point, and how well both are explained."""
        both, first, second = (int(each.sum()) for each in self.parts.values())
        of_what = f" of {self.activation}" if self.activation else ""
        n_live = f"{int(self.is_live.sum()):,} of them fire: " if self.density is not None else ""
        said = [
            f"The crosscoder has {len(self.relative):,} latents{of_what}; {n_live}{both:,} are in both models, {first:,} in "
            f"{self.names[0]} alone and {second:,} in {self.names[1]} alone, with less than {100 * _ONE_SIDED:.0f} % of their length "
            "in the other."
        ]
        if both:
            cosine = self.cosines[self.parts["both"]].mean().item()
            apart = ": they fire at the same tokens, and point where each model has it" if abs(cosine) < _UNALIKE else ""
            said.append(f"The two directions of those in both have a mean cosine of {format_fixed(cosine, 2)}{apart}.")
        if self.fvu is not None and self.density is not None:
            shares = " and ".join(f"{100 * fvu:.1f} % in {name}" for fvu, name in zip(self.fvu, self.names, strict=True))
            said.append(
                f"On {self.n_rows:,} tokens {shares} of the variance is unexplained, with {float(self.density.sum()):.1f} latents a "
                "token."
            )
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return every latent's lengths, share, cosine and density, the counts, and the latents shown with their contexts."""
        return {
            "models": list(self.names),
            "activation": self.activation,
            "counts": {whose: int(each.sum()) for whose, each in self.parts.items()},
            "fvu": None if self.fvu is None else list(self.fvu),
            "n_rows": self.n_rows,
            "norms": self.norms.tolist(),
            "relative": self.relative.tolist(),
            "cosines": self.cosines.tolist(),
            "density": None if self.density is None else self.density.tolist(),
            "shown": [asdict(each) for each in self.shown],
        }

    def figures(self) -> Sequence[Figure]:
        """Return how many latents have which share of their length in the second model, and which cosine those of both have."""
        from cutaway.plots import histogram

        if not bool(self.is_live.any()):
            return []
        first, second = (shortened(name, 28) for name in self.names)
        figures = [
            histogram(
                self.relative[self.is_live].numpy(force=True),
                title="Whose latents",
                x_label=f"share of the length: 0 in {first} alone, 1 in {second} alone",
                y_label="latents",
                limits=(0.0, 1.0),
            )
        ]
        both = self.parts["both"]
        if bool(both.any()):
            figures.append(
                histogram(
                    self.cosines[both].numpy(force=True),
                    title="Directions of the latents in both",
                    x_label="cosine between the two models",
                    y_label="latents",
                    limits=(min(0.0, float(self.cosines[both].min())), 1.0),
                )
            )
        return figures

    def views(self) -> Sequence[RenderableType]:
        """Return how many latents have which share, and some of each kind."""
        headers, rows = self.table()
        views: list[RenderableType] = [filled_table(headers, rows, right=headers)]
        if self.shown:
            listed = [
                [
                    str(each.latent),
                    shortened(each.whose, 16),
                    f"{each.relative:.2f}",
                    format_fixed(each.cosine, 2),
                    f"{100 * each.density:.2g} %",
                    each.peaks,
                ]
                for each in self.shown
            ]
            headers = ("latent", "in", "share", "cosine", "fires in", "at the peaks")
            views.append(filled_table(headers, listed, right=[headers[0], *headers[2:5]]))
        return views

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return how many latents that fire have which share."""
        counts = torch.histc(self.relative[self.is_live].float().cpu(), bins=_N_BINS, min=0, max=1).tolist()
        return ("share in the second", "latents"), [
            [f"{place / _N_BINS:.1f} to {(place + 1) / _N_BINS:.1f}", f"{count:,.0f}"] for place, count in enumerate(counts)
        ]

    def add_to(self, page: HtmlReport, *, heading: str | None = None) -> None:
        """Add it to a page, and the latents shown with their contexts."""
        super().add_to(page, heading=heading)
        for each in self.shown:
            where = "in both models" if each.whose == "both" else f"in {each.whose} alone"
            text = (
                f"Latent {each.latent} is {where}: {each.relative:.2f} of its length is in {self.names[1]}, the cosine of its two "
                f"directions is {format_fixed(each.cosine, 2)}, and it fires in {100 * each.density:.2g} % of the tokens."
            )
            page.add(f"Latent {each.latent}", text=text, body=context_list(each.contexts))
