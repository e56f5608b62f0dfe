"""Several trainings at once, as one result: what each came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.result import Result
from cutaway.interp.sae.curve import SOURCES, LearningCurve, dead_label
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["LearningCurves"]


@dataclass(frozen=True, kw_only=True, repr=False)
class LearningCurves(Result):
    """Trainings of several dictionaries on the same rows, such as a transcoder for every layer."""

    title: ClassVar[str] = "Training of dictionaries"
    source: ClassVar[str] = "; ".join(SOURCES.values())

    curves: tuple[LearningCurve, ...]
    """At least one."""

    def summary(self) -> str:
        """Return how many were trained on how much, and the best and the worst of them."""
        first, unexplained = self.curves[0], [curve.last.fvu for curve in self.curves]
        best, worst = (self.curves[unexplained.index(bound(unexplained))].name for bound in (min, max))
        return (
            f"{len(self.curves)} dictionaries of {first.d_sae:,} latents ({first.kind}), trained together {first.n_steps:,} steps on "
            f"{first.n_steps * first.batch_size:,} rows. At the end {100 * min(unexplained):.1f} % ({best}) to "
            f"{100 * max(unexplained):.1f} % ({worst}) of the variance is unexplained."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return each training's settings and points."""
        return {"curves": [{"name": curve.name, "target": curve.target} | curve.to_dict() for curve in self.curves]}

    def figures(self) -> Sequence[Figure]:
        """Return variance unexplained over the steps, a line a dictionary."""
        from cutaway.plots import lines

        series = {
            curve.name: ([point.step for point in curve.points], [point.fvu for point in curve.points]) for curve in self.curves
        }
        return [lines(series, title="Training", x_label="step", y_label="share of the variance unexplained")]

    def views(self) -> Sequence[RenderableType]:
        """Return the table."""
        headers, rows = self.table()
        numbers = table(*headers, right=headers[1:])
        for row in rows:
            numbers.add_row(*row)
        return [numbers]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return what each came to, in the mean of its last points."""
        rows = []
        for curve in self.curves:
            last = curve.last
            rows.append([curve.name, f"{100 * last.fvu:.1f} %", f"{last.l0:.1f}", dead_label(last)])
        return ["of", "unexplained", "latents a row", "dead"], rows
