"""What training was like: loss, variance unexplained, latents a row and dead latents, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.result import Result
from cutaway.interp.sae.shape import Kind
from cutaway.interp.training_data import TrainingData
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["LearningCurve", "Point", "SOURCES", "dead_label"]

_N_SHOWN = 8

SOURCES: dict[Kind, str] = {
    "relu": 'Bricken et al. 2023, "Towards Monosemanticity"',
    "topk": 'Gao et al. 2024, "Scaling and evaluating sparse autoencoders"',
    "batchtopk": 'Bussmann et al. 2024, "BatchTopK Sparse Autoencoders"',
    "jumprelu": 'Rajamanoharan et al. 2024, "Jumping Ahead"',
}


@dataclass(frozen=True)
class Point:
    """One batch, as the step before its update found it; the last point of a batchtopk is of the dictionary that comes of it."""

    step: int
    loss: float
    fvu: float
    """Fraction of variance unexplained."""
    l0: float
    """Latents above zero in a row, in the mean."""
    dead: float | None
    """The share of latents that have not fired for long; None where there were not rows enough to tell."""


def dead_label(point: Point) -> str:
    """Return the share of dead latents as a table shows it."""
    return "not known" if point.dead is None else f"{100 * point.dead:.1f} %"


@dataclass(frozen=True, kw_only=True, repr=False)
class LearningCurve(Result):
    """A training, as points along it."""

    title: ClassVar[str] = "Training of a dictionary"
    source: ClassVar[str] = "; ".join(SOURCES.values())

    kind: Kind
    name: str
    target: str | None
    d_sae: int
    n_steps: int
    batch_size: int
    points: tuple[Point, ...]
    n_left_out: int
    """Rows that were too long."""
    never_fired: float
    """The share of latents that fired on no row at all."""
    scales: tuple[float, ...]
    """What each model's activations were multiplied with while it was trained."""
    settings: dict[str, Any]

    @property
    def last(self) -> Point:
        """The mean of the last points, a tenth of them; of a batchtopk the last, with the threshold that stays."""
        points = self._last_points
        means = {name: sum(getattr(point, name) for point in points) / len(points) for name in ("loss", "fvu", "l0")}
        dead = [point.dead for point in points if point.dead is not None]
        return Point(step=points[-1].step, **means, dead=sum(dead) / len(dead) if dead else None)

    @property
    def _last_points(self) -> tuple[Point, ...]:
        return self.points[-1 if self.kind == "batchtopk" else -max(1, len(self.points) // 10) :]

    def summary(self) -> str:
        """Return what was trained on how much, and what it came to."""
        last, what = self.last, self.name or "activations"
        n_rows = self.n_steps * self.batch_size
        first, n_points = self._last_points[0].step, len(self._last_points)
        when = (
            f"In the mean of the last {n_points:,} points, steps {first:,} to {last.step:,}"
            if n_points > 1
            else "With the threshold that it ends with"
            if self.kind == "batchtopk"
            else f"At step {last.step:,}"
        )
        left_out = f" {self.n_left_out:,} rows were left out for their length." if self.n_left_out else ""
        return (
            f"{self.d_sae:,} latents ({self.kind}) of {what}{f' to {self.target}' if self.target else ''}, trained {self.n_steps:,} "
            f"steps on {n_rows:,} rows. {when}, {100 * last.fvu:.1f} % of the variance is unexplained with {last.l0:.1f} "
            f"latents a row{self._dead_said(last.dead)}.{left_out}{self._data_said()}"
        )

    def _data_said(self) -> str:
        """Return a sentence on the text and what of it was held out, where that is known."""
        data = self.settings.get("dictionary", {}).get("trained_on")
        return "" if data is None else f" The text is {TrainingData.from_dict(data)}."

    def _dead_said(self, dead: float | None) -> str:
        if dead is not None:
            return f", and {100 * dead:.1f} % of them are dead"
        wait, never = self.settings["dead_after"], 100 * self.never_fired
        return f". How many are dead is not known, as that takes {wait:,} rows; {never:.1f} % fired on none"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings and all points."""
        return {
            "settings": self.settings,
            "scales": list(self.scales),
            "n_left_out": self.n_left_out,
            "never_fired": self.never_fired,
            "last": asdict(self.last),
            "points": [asdict(point) for point in self.points],
        }

    def figures(self) -> Sequence[Figure]:
        """Return variance unexplained and dead latents over the steps, and latents a row where their number changes."""
        from cutaway.plots import lines

        steps = [point.step for point in self.points]
        shares = {"unexplained": (steps, [point.fvu for point in self.points])}
        if known := [point for point in self.points if point.dead is not None]:
            shares["dead"] = ([point.step for point in known], [point.dead or 0.0 for point in known])
        l0 = [point.l0 for point in self.points]
        drawn = [lines(shares, title="Training", x_label="step", y_label="share")]
        if len(set(l0)) > 1:  # topk has always k
            drawn.append(lines({"latents": (steps, l0)}, title="Latents above zero", x_label="step", y_label="latents a row"))
        return drawn

    def views(self) -> Sequence[RenderableType]:
        """Return a table of some of the points, the first and the last among them."""
        headers, rows = self.table()
        chosen = {
            round(place * (len(rows) - 1) / max(1, min(_N_SHOWN, len(rows)) - 1)) for place in range(min(_N_SHOWN, len(rows)))
        }
        numbers = table(*headers, right=headers)
        for place in sorted(chosen):
            numbers.add_row(*rows[place])
        return [numbers]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the points."""
        rows = [
            [f"{each.step:,}", f"{each.loss:.4f}", f"{100 * each.fvu:.1f} %", f"{each.l0:.1f}", dead_label(each)]
            for each in self.points
        ]
        return ["step", "loss", "unexplained", "latents a row", "dead"], rows
