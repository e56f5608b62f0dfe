"""Measured points and the laws that they should follow, over axes on which powers are straight lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from cutaway.plots.points import finite_points
from cutaway.plots.style import style
from cutaway.report.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LawPanel", "laws"]

_Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class LawPanel:
    """One picture: laws `{name: (x, y)}` as lines, and under the same names what was measured of them as points."""

    title: str
    x_label: str
    laws: _Series
    measured: _Series
    write_y: Callable[[float], str]
    """Writes a height beside the axis."""
    x_ticks: Mapping[float, str]


def laws(shown: Sequence[LawPanel], *, title: str) -> Figure:
    """Return a figure of panels side by side. Values that are not finite, or not above 0, leave out their point.

    Raises ValueError when there is no panel, or when one has nothing to draw.
    """
    from matplotlib.figure import Figure

    if not shown:
        raise ValueError("there is nothing to draw: no panel is given")
    with style():
        figure = Figure(figsize=(3.6 * len(shown) + 0.4, 4.2))
        row = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, panel in zip(row, shown, strict=True):
            _draw(axes, panel)
        figure.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=12, parse_math=False)
        figure.set_label(f"{title}: {'; '.join(f'{panel.title} over {panel.x_label}' for panel in shown)}")
    return figure


def _draw(axes: Axes, panel: LawPanel) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    names = list(dict.fromkeys([*panel.laws, *panel.measured]))
    look = dict(zip(names, cycle(PALETTE), strict=False))
    n_drawn = 0
    for name in names:
        line, points = (_positive(name, series) for series in (panel.laws, panel.measured))
        n_drawn += len(line) + len(points)
        if line:
            axes.plot(*zip(*line, strict=True), color=look[name], linewidth=1.4, zorder=2, label=name)
        if points:
            marker: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markeredgecolor": "white", "linestyle": "none"}
            axes.plot(*zip(*points, strict=True), color=look[name], zorder=3, label=None if line else name, **marker)
    if not n_drawn:
        raise ValueError(f"there is nothing to draw of {panel.title!r}: no value is finite and above 0")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(FixedLocator(list(panel.x_ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(list(panel.x_ticks.values()), fontsize=8.5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.09 * len(names)))  # room for the names
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.write_y(value)))
    axes.tick_params(axis="y", labelsize=8.5)
    axes.set_xlabel(panel.x_label, parse_math=False)
    axes.set_title(panel.title, fontsize=10, pad=6, parse_math=False)
    for text in axes.legend(loc="upper left", frameon=False, fontsize=8.5, handlelength=1.4).get_texts():
        text.set_parse_math(False)


def _positive(name: str, series: _Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in finite_points(name, *series.get(name, ((), ()))) if x > 0 and y > 0]
