"""Lines with what is uncertain about them as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from cutaway.plots.canvas import write_title
from cutaway.plots.labels import label_ends
from cutaway.plots.style import style
from cutaway.report.colours import MUTED, PALETTE
from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bands"]


def bands(
    series: Mapping[str, tuple[Sequence[float], ...]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_is_log: bool = False,
    marks: Sequence[float] = (),
) -> Figure:
    """Return a figure of lines with a band each, `{name: (x, y, low, high)}`, each with its name at its end.

    A line of one point is a large dot; `marks` are heights with a thin line across. Raises ValueError when a line has not one
    y, low and high for each x, or there is none.
    """
    from matplotlib.figure import Figure

    if not series:
        raise ValueError("there is nothing to draw: no line is given")
    for name, values in series.items():
        if len(values) != 4 or len({len(each) for each in values}) != 1 or not len(values[0]):
            raise ValueError(
                f"the line {name!r} has {[len(each) for each in values]} numbers: give x, y, low and high, as many of each"
            )
    with style():
        figure = Figure(figsize=(7.6, 4.6))
        axes = figure.add_subplot()
        ends = []
        for (name, (x, y, low, high)), colour in zip(series.items(), cycle(PALETTE), strict=False):
            is_point = len(x) == 1  # it has no width to fill
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=2 if is_point else 0, zorder=1)
            axes.plot(
                x, y, color=colour, marker="o", markersize=10 if is_point else 4, markeredgecolor="white", zorder=2 + is_point
            )
            ends.append((shortened(token_label(name), 28), float(y[-1]), colour))
        for mark in marks:
            axes.axhline(mark, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        if x_is_log:
            _log_axis(axes)
        label_ends(axes, ends)
        axes.set_xlabel(x_label, parse_math=False)
        axes.set_ylabel(y_label, parse_math=False)
        write_title(axes, title, width=6.0)
        figure.set_label(f"{title}: {y_label} over {x_label} as {len(series)} lines with bands: {', '.join(series)}")
    return figure


def _log_axis(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
