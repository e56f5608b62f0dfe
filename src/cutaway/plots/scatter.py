"""Pairs of numbers as points: how two accounts of the same things agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cutaway.plots.canvas import write_title
from cutaway.plots.labels import label_ends
from cutaway.plots.points import finite_points
from cutaway.plots.style import style
from cutaway.report.colours import MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["scatter"]

_MARKERS = "osD^vP"


def scatter(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    has_diagonal: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Return a figure of points, each series "x, y" in a colour and a shape of its own, with the line on which both are equal.

    `levels` are heights at which a line is drawn, with its name at its end. Points that are not finite are left out. Raises ValueError
    for a series whose lengths differ, and when no point is finite.
    """
    from matplotlib.figure import Figure

    points = {name: finite_points(name, *pair) for name, pair in series.items()}
    every = [pair for pairs in points.values() for pair in pairs]
    if not every:
        raise ValueError("there is nothing to draw: no point is finite")
    with style():
        figure = Figure(figsize=(6.4, 4.6))
        axes = figure.add_subplot()
        low, high = (bound(pair[0] for pair in every) for bound in (min, max))
        if has_diagonal:
            axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, zorder=1)
        for height in (levels or {}).values():
            axes.axhline(height, color=MUTED, linewidth=0.8, zorder=1)
        for number, (name, pairs) in enumerate(points.items()):
            if not pairs:
                continue
            x, y = zip(*pairs, strict=True)
            marker, colour = _MARKERS[number % len(_MARKERS)], PALETTE[number % len(PALETTE)]
            axes.scatter(x, y, s=22, marker=marker, color=colour, edgecolor="white", linewidth=0.5, zorder=2 + number, label=name)
        if levels:
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + 0.08 * len(points) * (high - low))  # room for the legend above the highest level
        for text in axes.legend(loc="best", facecolor="white", edgecolor="none", fontsize=8.5).get_texts():
            text.set_parse_math(False)
        label_ends(axes, [(name, height, MUTED) for name, height in (levels or {}).items()])
        axes.set_xlabel(x_label, parse_math=False)
        axes.set_ylabel(y_label, parse_math=False)
        write_title(axes, title, width=5.4)
        figure.set_label(f"{title}: {y_label} over {x_label} as points of {', '.join(points)}")
    return figure
