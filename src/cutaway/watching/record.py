"""What a run watched, over its steps: curves by family, the head that leads, and when each rose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.result import Result
from cutaway.report import Curve, draw_curves, is_unicode, stdout_console
from cutaway.runs import Metrics
from cutaway.watching.families import FAMILIES
from cutaway.watching.rises import Rise, find_rise

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Series", "WatchedFamily", "Watched", "read_watched"]

Series = tuple[Sequence[int], Sequence[float]]
"""Steps, and the value at each."""

_BEST, _SCORE = "best", "score"
_LEAST_RISE = 0.1
"""Of a head's score, which lies from 0 to 1 or from -1: less is said to be no rise."""
_MANY_POINTS = 60  # of a loss: more are noise
_N_CURVES = 4  # in a terminal's picture; a page draws all, and names as many
_PICTURE_HEIGHT, _MAX_WIDTH = 11, 100


@dataclass(frozen=True)
class WatchedFamily:
    """The curves of one family, by the part of their names after the dot; a value without a dot is a family of its own."""

    name: str
    curves: Mapping[str, Series]

    @property
    def has_heads(self) -> bool:
        """Whether its values are scores of which the highest counts: it logs the best of them too."""
        return _BEST in self.curves and len(self.curves) > 1

    @property
    def about(self) -> str:
        """What its values are, in words; empty for one's own."""
        return FAMILIES[self.name].about if self.name in FAMILIES else ""

    @property
    def unit(self) -> str:
        """What its values are measured in; empty for one's own."""
        return FAMILIES[self.name].unit if self.name in FAMILIES else ""

    @cached_property
    def ranked(self) -> list[str]:
        """The labels, the one that matters most first: a score; of heads the highest at the end; else what changed most."""
        if self.has_heads:
            return sorted(self._singles, key=lambda label: -self.curves[label][1][-1])
        return sorted(self._singles, key=lambda label: (label != _SCORE, -_change(self.curves[label])))

    @property
    def shown(self) -> list[str]:
        """The labels of the curves to draw: a score alone, which lies far from the losses that it is a difference of; else all."""
        return [_SCORE] if _SCORE in self.curves else self.ranked

    @property
    def least(self) -> tuple[float, float] | None:
        """The heights that a picture shows at least: those of a head that rises, so that noise does not look like one."""
        return (0.0, 2 * _LEAST_RISE) if self.has_heads else None

    @property
    def leading(self) -> str:
        """The label that matters most."""
        return self.ranked[0]

    @cached_property
    def rise(self) -> Rise | None:
        """When the leading curve rose or fell; None where it did neither."""
        found = find_rise(*self.curves[self.leading])
        return None if found and self.has_heads and abs(found.end - found.start) < _LEAST_RISE else found

    @property
    def _singles(self) -> list[str]:
        return [label for label in self.curves if label != _BEST or not self.has_heads]

    def label(self, label: str) -> str:
        """Return what a curve is called where the family's name stands above it."""
        return label or self.name

    def said(self) -> str:
        """Return what became of its leading curve as a sentence."""
        _, values = self.curves[self.leading]
        what = f"{self.name}: {self.leading}" if self.leading else self.name
        if self.rise is not None:
            return f"{what} {self.rise.said(_digits(values))}."
        if self.has_heads and (passing := self._passing()):
            return passing
        if self.has_heads:
            return f"{self.name}: no head rose by {_LEAST_RISE:g}; the highest is {self.leading}, {values[-1]:.2f} at the end."
        digits = _digits(values)
        return f"{what} went from {values[0]:z.{digits}f} to {values[-1]:z.{digits}f}, with no clear rise."

    def _passing(self) -> str:
        """Return the sentence on a head that rose and fell back, empty where none did."""
        highest = max(self._singles, key=lambda label: max(self.curves[label][1]))
        steps, values = self.curves[highest]
        peak = max(values)
        if peak - values[0] < _LEAST_RISE:
            return ""
        step = steps[values.index(peak)]
        return f"{self.name}: {highest} rose from {values[0]:z.2f} to {peak:z.2f} at step {step:,}, and fell back to {values[-1]:z.2f}."


@dataclass(frozen=True, eq=False, repr=False)
class Watched(Result):
    """What was watched while a model learned, with its loss."""

    title: ClassVar[str] = "Watched while training"
    source: ClassVar[str] = (
        'Olsson et al. 2022, "In-context Learning and Induction Heads" (scores of heads and in-context learning over training); a rise '
        "is the 10-90 % window of the way from the first value to the last"
    )

    losses: Mapping[str, Series]
    families: Sequence[WatchedFamily]

    def summary(self) -> str:
        """Return for each family when its leading curve rose, a line each."""
        return "\n\n".join(family.said() for family in self.families) or "Nothing was watched."

    def to_dict(self) -> dict[str, Any]:
        """Return every curve and every rise."""
        return {
            "families": [
                {
                    "name": family.name,
                    "about": family.about,
                    "leading": family.leading,
                    "rise": family.rise.to_dict() if family.rise else None,
                    "curves": {
                        label: {"steps": list(steps), "values": list(values)} for label, (steps, values) in family.curves.items()
                    },
                }
                for family in self.families
            ],
        }

    def figures(self) -> list[Figure]:
        """Return one figure: the loss, and below it each family, over the same steps."""
        from cutaway.plots import Panel, panels

        shown = [Panel("Loss", "nats a token", _losses(self.losses), named=tuple(self.losses))] if self.losses else []
        shown += [
            Panel(
                family.name,
                family.unit,
                {family.label(label): family.curves[label] for label in family.shown},
                named=tuple(family.label(label) for label in family.shown[:_N_CURVES]),
                span=(family.rise.first, family.rise.last) if family.rise else None,
                least=family.least,
            )
            for family in self.families
        ]
        return [panels(shown, x_label="step", title=self.title)]

    def views(self) -> list[RenderableType]:
        """Return a picture for each family, its leading curve bright, with what became of it below."""
        from rich.console import Group
        from rich.text import Text

        console = stdout_console()
        width = min(console.width, _MAX_WIDTH)
        parts: list[RenderableType] = []
        for family in self.families:
            curves = [Curve(family.label(label), *family.curves[label]) for label in family.shown[:_N_CURVES]]
            unit = f", {family.unit}" if family.unit else ""
            heading = Text.assemble((family.name, "bold"), (unit, "dim"))
            picture = draw_curves(
                curves, width=width, height=_PICTURE_HEIGHT, is_unicode=is_unicode(console), first_leads=True, least=family.least
            )
            parts.append(Group(heading, picture, Text(family.said())))
        return parts

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the families with their leading curves and when these rose."""
        headers = ("watched", "leading", "from", "to", "10 % at step", "50 %", "90 %")
        rows = []
        for family in self.families:
            values = family.curves[family.leading][1]
            rise, digits = family.rise, _digits(values)
            at = [f"{round(step):,}" for step in (rise.first, rise.half, rise.last)] if rise else [""] * 3
            rows.append((family.name, family.leading, f"{values[0]:z.{digits}f}", f"{values[-1]:z.{digits}f}", *at))
        return headers, rows


def read_watched(metrics: Metrics) -> Watched:
    """Return what a run watched, from what it logged: `read_watched(Run("runs/demo").metrics()).report("page.html")`."""
    families: dict[str, dict[str, Series]] = {}
    for name in metrics.watched():
        family, _, label = name.partition(".")
        if (curve := metrics.curve(name))[0]:
            families.setdefault(family, {})[label] = curve
    losses = {label: metrics.curve(name) for label, name in (("train", "loss"), ("validation", "val_loss"))}
    order = {name: place for place, name in enumerate(FAMILIES)}
    return Watched(
        losses={label: curve for label, curve in losses.items() if curve[0]},
        families=[WatchedFamily(name, families[name]) for name in sorted(families, key=lambda name: order.get(name, len(order)))],
    )


def _losses(losses: Mapping[str, Series]) -> dict[str, Series]:
    """Return the losses smoothed where there are many, and these as they are under a name that is not written."""
    from cutaway.plots import smoothed

    many = {label: curve for label, curve in losses.items() if len(curve[0]) >= _MANY_POINTS}
    raw = {f"{label}, every step": curve for label, curve in many.items()}
    return {**losses, **{label: (steps, smoothed(values)) for label, (steps, values) in many.items()}, **raw}


def _change(curve: Series) -> float:
    return abs(curve[1][-1] - curve[1][0])


def _digits(values: Sequence[float]) -> int:
    """Return how many decimals tell values apart: two, and fewer of large ones."""
    return 2 if max(map(abs, values)) < 10 else 1
