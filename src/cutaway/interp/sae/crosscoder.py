"""Two checkpoints compared: latents that both share, and how long each one's direction is in either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.result import Result
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.report import filled_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["ModelComparison", "compare_decoders"]

_ONE_SIDED = 0.1  # of the sum of the two lengths
_N_BINS = 20


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Result):
    """The latents of a crosscoder of two models: which are of both, and which of one."""

    title: ClassVar[str] = "Crosscoder"
    source: ClassVar[str] = 'Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing"'

    norms: Float[Tensor, "2 d_sae"]
    """The length of each latent's direction in either model, in units of its usual activation."""
    cosines: Float[Tensor, " d_sae"]
    """Between the two directions of a latent."""

    @property
    def relative(self) -> Float[Tensor, " d_sae"]:
        """The second model's share of the two lengths' sum: 0 is the first model's alone, 1 the second's, 0.5 both alike."""
        shares: Tensor = self.norms[1] / self.norms.sum(0)
        return shares

    def summary(self) -> str:
        """Return how many latents are of one model alone, and how alike the shared ones point."""
        relative = self.relative
        n_first, n_second = int((relative < _ONE_SIDED).sum()), int((relative > 1 - _ONE_SIDED).sum())
        is_shared = (relative >= _ONE_SIDED) & (relative <= 1 - _ONE_SIDED)
        cosine = (
            f"; their two directions have a mean cosine of {self.cosines[is_shared].mean():.2f}" if bool(is_shared.any()) else ""
        )
        return (
            f"Of {len(relative):,} latents {n_first:,} are the first model's alone and {n_second:,} the second's (less than "
            f"{_ONE_SIDED:.0%} of their length in the other); {int(is_shared.sum()):,} are of both{cosine}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the lengths, the second model's shares and the cosines."""
        return {"norms": self.norms.tolist(), "relative": self.relative.tolist(), "cosines": self.cosines.tolist()}

    def figures(self) -> Sequence[Figure]:
        """Return how many latents have which share."""
        from cutaway.plots import lines

        counts, middles = self._counts()
        return [lines({"latents": (middles, counts)}, title="Whose latents", x_label="the second model's share", y_label="latents")]

    def views(self) -> Sequence[RenderableType]:
        """Return the same as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return how many latents have which share."""
        counts, middles = self._counts()
        half = 0.5 / _N_BINS
        return ("second model's share", "latents"), [
            [f"{middle - half:.2f} to {middle + half:.2f}", f"{count:.0f}"] for middle, count in zip(middles, counts, strict=True)
        ]

    def _counts(self) -> tuple[list[float], list[float]]:
        counts = torch.histc(self.relative.float().cpu(), bins=_N_BINS, min=0, max=1)
        return counts.tolist(), [(place + 0.5) / _N_BINS for place in range(_N_BINS)]


def compare_decoders(crosscoder: Dictionary, scales: Sequence[float] | None = None) -> ModelComparison:
    """Return how a crosscoder's latents are shared out between two models, in each model's own units.

    `scales` are what each model's activations were multiplied with in training: those of the crosscoder's config unless given. Raises
    ValueError for a dictionary of one model, or of more than two, and where scales are known from neither.
    """
    if crosscoder.config.n_models != 2:
        raise ValueError(f"the dictionary reads {crosscoder.config.n_models} model(s); two are compared: train it with n_models=2")
    scales = crosscoder.config.scales if scales is None else scales
    if scales is None:
        raise ValueError(
            "the crosscoder does not know the scales of its training, without which the model of longer activations seems to have "
            "all latents: give scales, one for each model (curve.scales)"
        )
    if len(scales) != 2:
        raise ValueError(f"{len(scales)} scales were given; expected one for each of the two models")
    first, second = crosscoder.W_dec.detach().chunk(2, dim=1)
    norms = torch.stack([first.norm(dim=1) * scales[0], second.norm(dim=1) * scales[1]])
    return ModelComparison(norms, torch.nn.functional.cosine_similarity(first, second, dim=1))
