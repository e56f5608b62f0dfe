"""Strengths by layers: what a metric does under each steering vector at each strength, one sweep for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.ablation.measure import measure_of
from cutaway.interp.edits import Edit
from cutaway.interp.prompts import Target
from cutaway.interp.result import Result
from cutaway.interp.rows import Rows, Texts, model_of, rows_of
from cutaway.interp.sites import site_of
from cutaway.interp.steering.vector import SteeringVector
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import grid
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["StrengthScan", "scan_strengths"]


@dataclass(frozen=True, eq=False, repr=False)
class StrengthScan(Result):
    """A metric under vectors at several strengths, beside random directions of the same lengths."""

    title: ClassVar[str] = "Steering by layer and strength"
    source: ClassVar[str] = 'Turner et al. 2023, "Steering Language Models With Activation Engineering" (layers and coefficients)'

    names: tuple[str, ...]
    """The activation of each vector."""
    strengths: tuple[float, ...]
    metric: str
    base: Float[Tensor, " batch"]
    scores: Float[Tensor, "vector strength batch"]
    random: Float[Tensor, "vector strength random batch"]
    """The same with each random direction of that vector's length."""
    pos: int | None
    said: tuple[str, ...] = ()

    @property
    def matrix(self) -> Float[Tensor, "vector strength"]:
        """By how much the metric changes, mean over texts."""
        return (self.scores - self.base).mean(dim=-1)

    @property
    def n_random(self) -> int:
        """How many random directions each vector is held against."""
        return self.random.shape[2]

    @property
    def random_changes(self) -> Float[Tensor, "vector strength random"]:
        """By how much the metric changes with each random direction, mean over texts."""
        return (self.random - self.base).mean(dim=-1)

    @property
    def random_size(self) -> Float[Tensor, "vector strength"]:
        """The mean size of these changes, whichever way they go: signed ones would cancel."""
        return self.random_changes.abs().mean(dim=-1)

    @property
    def random_extreme(self) -> Float[Tensor, "vector strength"]:
        """The largest of these changes, with its sign."""
        changes = self.random_changes
        return changes.gather(-1, changes.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)

    @property
    def n_as_large(self) -> Int[Tensor, "vector strength"]:
        """How many random directions change the metric by at least as much as the vector."""
        return (self.random_changes.abs() >= self.matrix.abs()[..., None]).sum(dim=-1)

    def summary(self) -> str:
        """Return where the metric changes most, what random directions do there, and the most that they do anywhere."""
        place = int(self.matrix.abs().argmax())
        vector, strength = divmod(place, len(self.strengths))
        said = "".join(f"{each[0].upper()}{each[1:]}. " for each in self.said)
        n_texts = f", mean of {len(self.base)} texts" if len(self.base) > 1 else ""
        maps = (self.matrix, self.random_size, self.random_extreme, self.n_as_large)
        change, size, extreme, n_as_large = (float(each[vector, strength]) for each in maps)
        anywhere = float(self.random_changes.flatten()[self.random_changes.abs().argmax()])
        n = f"{self.n_random} random direction{'s' * (self.n_random > 1)} of that length"
        return (
            f"{said}The {self.metric} is {float(self.base.mean()):.3f}{n_texts}. It changes most with {self.strengths[strength]:g} "
            f"times the vector at {self.names[vector]}, by {change:+.3f}; {n} change it by {size:.3f} up or down on average, "
            f"{extreme:+.3f} at the most, and {n_as_large:g} of {self.n_random} by as much as the vector. The most that any does at "
            f"any place is {anywhere:+.3f}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the change under every vector and strength."""
        return {
            "metric": self.metric,
            "pos": self.pos,
            "notes": list(self.said),
            "names": list(self.names),
            "strengths": list(self.strengths),
            "base": self.base.tolist(),
            "change": self.matrix.tolist(),
            "random_changes": self.random_changes.tolist(),
            "random_size": self.random_size.tolist(),
            "random_extreme": self.random_extreme.tolist(),
            "n_as_large": self.n_as_large.tolist(),
            "n_random": self.n_random,
        }

    def figures(self) -> list[Figure]:
        """Return the changes as maps, those of random directions in the same colours."""
        from cutaway.plots import heatmap

        return [
            heatmap(
                matrix.numpy(force=True),
                rows=self._labels(),
                columns=[f"{strength:g}" for strength in self.strengths],
                title=title,
                row_title="vector",
                column_title="strength",
                label=f"change of the {self.metric}",
                signed=True,
                limit=self._limit(),
            )
            for title, matrix in self._maps()
        ]

    def views(self) -> list[RenderableType]:
        """Return the changes as coloured grids, those of random directions in the same colours."""
        from rich.console import Group
        from rich.text import Text

        columns, limit = [f"{strength:g}" for strength in self.strengths], self._limit()
        shown: list[RenderableType] = []
        for title, matrix in self._maps():
            cells = grid(matrix.numpy(force=True), rows=self._labels(), columns=columns, signed=True, corner="vector", limit=limit)
            shown.append(Group(Text(title, style="bold"), cells))
        return shown

    def _maps(self) -> list[tuple[str, Float[Tensor, "vector strength"]]]:
        return [
            ("Steering", self.matrix),
            (f"{self.n_random} random directions of the same length: mean size of the change", self.random_size),
            ("The one of them that changes it most", self.random_extreme),
        ]

    def _limit(self) -> float | None:
        """Return the greatest change of all, which has the deepest colour; None where nothing changes."""
        return float(torch.stack([self.matrix, self.random_extreme]).abs().max()) or None

    def _labels(self) -> list[str]:
        sites = [site_of(name) for name in self.names]
        return [name if site.layer is None else f"L{site.layer} {site.part}" for name, site in zip(self.names, sites, strict=True)]


def scan_strengths(
    lm: LanguageModel | Transformer,
    vectors: SteeringVector | Sequence[SteeringVector],
    texts: Texts,
    *,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    pos: int | None = None,
    n_random: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> StrengthScan:
    """Return what a metric does under each vector, of one layer or several, at each strength.

    The metric is `metric`; else at each text's end the log-probability of `correct`, or its logit less that of `wrong`; else the
    loss. Vectors are added at every position, or at `pos`; those for each of the first positions as far as the texts go. Raises
    ValueError for a vector that was made for another model.
    """
    each = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
    if not each or not strengths or n_random < 1:
        raise ValueError(
            f"there are {len(each)} vectors, {len(strengths)} strengths and {n_random} random directions: give at least one of each"
        )
    model, rows = model_of(lm), rows_of(lm, texts)
    each[0].check(model)
    if {one.model_sha256 for one in each} != {each[0].model_sha256}:
        raise ValueError("the vectors were made for different models: give those of one")
    measure = measure_of(lm, rows, metric, correct, wrong)
    others = [[one.random(seed=seed + number) for number in range(n_random)] for one in each]
    variants: list[list[Edit]] = [[]]
    variants += [
        _adding(made, strength, rows, pos)
        for one, random in zip(each, others, strict=True)
        for strength in strengths
        for made in (one, *random)
    ]
    lengths = None if rows.is_even else rows.lengths
    model = without_dropout(model)
    with torch.no_grad():
        scores = sweep(model, rows.tokens, variants, measure.metric, lengths=lengths, progress=progress)
    by_vector = scores[1:].reshape(len(each), len(strengths), 1 + n_random, -1)
    return StrengthScan(
        names=tuple(one.name for one in each),
        strengths=tuple(map(float, strengths)),
        metric=measure.name,
        base=scores[0],
        scores=by_vector[:, :, 0],
        random=by_vector[:, :, 1:],
        pos=pos,
        said=measure.said,
    )


def _adding(vector: SteeringVector, strength: float, rows: Rows, pos: int | None) -> list[Edit]:
    """Return the edits that add a vector to each row, as far as that goes.

    Where rows are filled up they name no positions, which shorter rows may not have: after the vector's own, zeros are added.
    """
    n_pos = rows.tokens.shape[1]
    (edit,) = vector.edits(strength, pos=pos, n_pos=n_pos)
    if vector.vector.ndim == 1 or rows.is_even:
        return [edit]
    assert edit.value is not None
    return [edits.add(vector.name, F.pad(edit.value, (0, 0, 0, n_pos - len(edit.value))))]
