"""Several pictures of lines over one axis, one below the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from cutaway.plots.canvas import write_title
from cutaway.plots.labels import label_ends
from cutaway.plots.points import finite_points
from cutaway.plots.style import MARKED_BELOW, style
from cutaway.report.colours import MUTED, PALETTE
from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "panels"]

_MAX_LABEL = 22


@dataclass(frozen=True)
class Panel:
    """Lines `{name: (x, y)}` in one picture: those named in colour with their names at their ends, the first of these above all."""

    title: str
    """What it shows; the first may leave that to the figure's title."""
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    named: Collection[str]
    span: tuple[float, float] | None = None
    """A part of the axis to shade."""
    least: tuple[float, float] | None = None
    """Heights that are shown whatever the values, so that small ones look small."""


def panels(shown: Sequence[Panel], *, x_label: str, title: str) -> Figure:
    """Return a figure of panels, one below the other over the same x; the title is written above where the first has none of its own.

    Values that are not finite leave out their point. Raises ValueError when there is no panel, or one has no finite value.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not shown:
        raise ValueError("there is nothing to draw: no panel is given")
    with style():
        figure = Figure(figsize=(7.2, 1.9 * len(shown) + (0.6 if shown[0].title else 0.8)))
        grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        for axes, panel in zip(grid[:, 0], shown, strict=True):
            _draw(axes, panel)
        if not shown[0].title:
            write_title(grid[0, 0], title, width=6.0)
        last = grid[-1, 0]
        last.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 2.5, 5, 10]))
        if last.get_xlim()[1] >= 10_000:
            last.xaxis.set_major_formatter(EngFormatter(sep=""))
        last.set_xlabel(x_label, parse_math=False)
        names = ", ".join(panel.title or panel.y_label for panel in shown)
        figure.set_label(f"{title}: {names} over {x_label}" + (", one below the other" if len(shown) > 1 else ""))
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    points = {name: found for name, (x, y) in panel.lines.items() if (found := finite_points(name, x, y))}
    if not points:
        raise ValueError(f"there is nothing to draw of {panel.title!r}: no line has a finite value")
    colours = dict(zip(panel.named, cycle(PALETTE), strict=False))
    ends = []
    for place, (name, pairs) in enumerate(reversed(points.items())):  # the first on top
        x, y = zip(*pairs, strict=True)
        if (colour := colours.get(name)) is None:
            axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.45, zorder=1)
            continue
        is_first, is_marked = name == next(iter(colours)), len(x) < MARKED_BELOW
        size: dict[str, Any] = (
            {"marker": "o", "markersize": 3, "markeredgecolor": "white", "markeredgewidth": 0.4} if is_marked else {}
        )
        axes.plot(x, y, color=colour, linewidth=2.4 if is_first else 1.3, zorder=2 + place, **size)
        ends.append((f"{shortened(token_label(name), _MAX_LABEL)}: {y[-1]:.3g}", y[-1], colour))
    values = [value for pairs in points.values() for _, value in pairs] + list(panel.least or ())
    room = 0.06 * (max(values) - min(values)) or 0.06 * abs(max(values)) or 0.5
    axes.set_ylim(min(values) - room, max(values) + room)
    if panel.span is not None:
        axes.axvspan(*panel.span, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    label_ends(axes, ends)
    axes.set_ylabel(panel.y_label, parse_math=False, fontsize=8.5)
    axes.set_title(panel.title, fontsize=10.5, pad=5, parse_math=False)
