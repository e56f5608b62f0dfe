"""What a probe gets right on texts that it was not fitted on, beside what says how much that is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from cutaway.interp.probing.kinds import Kind, fit
from cutaway.interp.probing.task import Task
from cutaway.runtime import seeded_generator

__all__ = ["Score", "Null", "Validation", "cross_validate", "held_out", "score", "validate"]


@dataclass(frozen=True)
class Score:
    """The share of rows read right, or for numbers R²: 1 less the squared error over the variance."""

    value: float
    standard_error: float
    """With whole texts as what is drawn, as rows of one text resemble each other."""


@dataclass(frozen=True)
class Null:
    """The same score where the labels were drawn at random, several times."""

    value: float
    """Mean over draws."""
    deviation: float
    """Standard deviation over draws: how far one of them lies from their mean."""
    draws: tuple[float, ...]
    """That of each draw; the same draw deals the same labels at every place."""

    @classmethod
    def of(cls, draws: Sequence[float]) -> Self:
        """Return the null of some draws."""
        mean = sum(draws) / len(draws)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in draws) / (len(draws) - 1)) if len(draws) > 1 else math.nan
        return cls(mean, deviation, tuple(draws))


@dataclass(frozen=True)
class Validation:
    """A probe's score on held-out texts and its nulls."""

    held_out: Score
    fitted: float
    """The score on the rows it was fitted on, mean over folds: far above the other, it has learned them by heart."""
    majority: float
    """That of always saying the most common class, or the mean."""
    shuffled: Null
    """That of a probe fitted and tested on labels that were dealt to other groups, or rows (`Task.shuffled`)."""
    control: Null | None = None
    """That on control tasks; None where they were not asked for."""
    control_majority: float | None = None
    """That of always saying a control task's own most common class, or its mean; mean over draws."""

    @property
    def selectivity(self) -> float | None:
        """The score less that on control tasks (Hewitt and Liang 2019, section 2.2); None where they were not asked for."""
        return None if self.control is None else self.held_out.value - self.control.value


def validate(
    x: Float[Tensor, "row d"],
    task: Task,
    kind: Kind,
    *,
    folds: Int[Tensor, " row"],
    n_nulls: int = 5,
    with_control: bool = False,
    seed: int = 0,
) -> Validation:
    """Return a probe's score on held-out folds, and with `n_nulls` draws that on shuffled labels and on control tasks."""
    if n_nulls < 1:
        raise ValueError(f"n_nulls is {n_nulls}: give at least 1, as a score means nothing without one")
    predictions, fitted = cross_validate(x, task, kind, folds=folds)

    def drawn(draw: Callable[[torch.Generator], Task]) -> list[Task]:
        generator = seeded_generator(seed)
        return [draw(generator) for _ in range(n_nulls)]

    def null(tasks: Sequence[Task]) -> Null:
        return Null.of([held_out(x, each, kind, folds=folds).value for each in tasks])

    controls = drawn(task.control) if with_control else []
    return Validation(
        held_out=score(task, predictions),
        fitted=fitted,
        majority=task.majority,
        shuffled=null(drawn(task.shuffled)),
        control=null(controls) if controls else None,
        control_majority=sum(each.majority for each in controls) / n_nulls if controls else None,
    )


def held_out(x: Float[Tensor, "row d"], task: Task, kind: Kind, *, folds: Int[Tensor, " row"]) -> Score:
    """Return a probe's score on held-out folds."""
    return score(task, cross_validate(x, task, kind, folds=folds)[0])


def cross_validate(
    x: Float[Tensor, "row d"], task: Task, kind: Kind, *, folds: Int[Tensor, " row"]
) -> tuple[Shaped[Tensor, " row"], float]:
    """Return what each row is read as by a probe fitted on all other folds, and the mean score on the rows fitted on."""
    predictions = torch.empty_like(task.targets)
    fitted = []
    for fold in folds.unique().tolist():
        learned = folds != fold
        part = task.of_rows(learned)
        both = _fit_predict(x[learned], part, kind, x)
        predictions[~learned] = both[~learned].to(predictions.dtype)
        fitted.append(score(part, both[learned].to(predictions.dtype)).value)
    return predictions, sum(fitted) / len(fitted)


def score(task: Task, predictions: Shaped[Tensor, " row"]) -> Score:
    """Return the score of predictions with its standard error over texts."""
    if task.is_number:
        above, below = (predictions - task.targets) ** 2, (task.targets - task.targets.mean()) ** 2
        share, error = _ratio(above, below, task.groups)
        return Score(1 - share, error)
    hits = (predictions == task.targets).double()
    return Score(*_ratio(hits, torch.ones_like(hits), task.groups))


def _ratio(above: Tensor, below: Tensor, groups: Tensor) -> tuple[float, float]:
    """Return the ratio of two sums and its standard error where whole groups are drawn (linearised)."""
    n = int(groups.max()) + 1
    above, below = (torch.zeros(n, dtype=torch.float64).index_add(0, groups, each.double()) for each in (above, below))
    ratio = float(above.sum() / below.sum())
    apart = above - ratio * below
    return ratio, math.sqrt(n / max(n - 1, 1) * float((apart**2).sum())) / float(below.sum())


def _fit_predict(x: Tensor, task: Task, kind: Kind, every: Tensor) -> Tensor:
    """Return what a probe fitted on rows reads in every row; random labels may leave it fewer classes than there are."""
    if task.is_number:
        return fit(x, task, kind=kind).predict(every)
    present, coded = task.targets.unique(return_inverse=True)
    if len(present) == 1:
        only: Tensor = present.expand(len(every))
        return only
    known = replace(task, targets=coded, classes=tuple(task.classes[place] for place in present.tolist()))
    found: Tensor = present[fit(x, known, kind=kind).predict(every)]
    return found
