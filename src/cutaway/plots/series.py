"""Numbers with names: bars, and lines with their names at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from cutaway.plots.canvas import Canvas, write_title
from cutaway.plots.labels import label_ends, label_rows
from cutaway.plots.points import finite_points
from cutaway.plots.style import MARKED_BELOW, style
from cutaway.report.colours import MUTED, PALETTE
from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["bars", "lines"]

_LABEL_SIZE = 8.5  # points
_MANY_BARS = 60  # more are drawn thin and without their numbers
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)))


def bars(
    values: ArrayLike, *, labels: Sequence[str], title: str, label: str = "", signed: bool = True, top: int | None = None
) -> Figure:
    """Return a figure of one bar a value "label" below the other, each with its number at the end.

    The greatest number has three digits, and all have as many decimals as it. Signed values are blue above zero and orange below.
    `top` keeps so many of the greatest magnitude, ordered from high to low; without it the order is the given one. NaN is left out.
    Raises ValueError when there is not one label a value, or nothing to draw.
    """
    pairs = _pairs(values, labels)
    n_all = len(pairs)
    if top is not None:
        pairs = sorted(sorted(pairs, key=lambda pair: -abs(pair[1]))[:top], key=lambda pair: -pair[1])
    if not pairs:
        raise ValueError("there is nothing to draw: no bar has a finite value")
    with style():
        names, numbers = [name for name, _ in pairs], [value for _, value in pairs]
        height = 0.24 if len(pairs) <= _MANY_BARS else max(14.0 / len(pairs), 0.02)
        canvas = Canvas()
        axes = canvas.axes(0, 0, 5.0, height * len(pairs))
        colours = [PALETTE[1] if signed and value < 0 else PALETTE[0] for value in numbers]
        axes.barh([place + 0.5 for place in range(len(pairs))], numbers, height=0.72, color=colours, zorder=2)
        axes.set_ylim(len(pairs), 0)
        label_rows(axes, names, cell_height=height, size=_LABEL_SIZE)
        _frame_bars(axes, numbers, has_numbers=len(pairs) <= _MANY_BARS)
        kept = f"the {len(pairs)} greatest of {n_all}" if len(pairs) < n_all else ""
        axes.set_xlabel(", ".join(filter(None, [label, kept])), parse_math=False)
        write_title(axes, title, width=5.0)
        return canvas.finish(f"{title}: {len(pairs)} bars of {label or 'values'}, from {min(numbers):.3g} to {max(numbers):.3g}")


def _pairs(values: ArrayLike, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return the labels with those values that are finite."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    if array.shape != (len(labels),):
        raise ValueError(f"the values have the shape {array.shape}: expected ({len(labels)},), one for each label")
    return [(name, value) for name, value in zip(labels, array.tolist(), strict=True) if math.isfinite(value)]


def _frame_bars(axes: Axes, numbers: list[float], *, has_numbers: bool) -> None:
    """Fit the axis to the bars with room for the numbers at their ends, and write those."""
    low, high = min(*numbers, 0.0), max(*numbers, 0.0)
    span = (high - low) or 1.0
    room = 0.16 * span if has_numbers else 0.03 * span
    axes.set_xlim(low - (room if low < 0 else 0.0), high + (room if high > 0 or low == high else 0.0))
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=3)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    written = _alike(numbers) if has_numbers else []
    for place, (value, number) in enumerate(zip(numbers, written, strict=False)):
        axes.annotate(
            number,
            (value, place + 0.5),
            xytext=(-3 if value < 0 else 3, 0),
            textcoords="offset points",
            ha="right" if value < 0 else "left",
            va="center",
            fontsize=7.5,
            color=MUTED,
        )


def _alike(numbers: Sequence[float]) -> list[str]:
    """Return numbers with as many decimals as the greatest needs for three digits, and no more than any of them has."""
    greatest = max(map(abs, numbers))
    if greatest and not 1e-4 <= greatest < 1e6:
        form = ".2e"
    else:
        n_decimals = 2 - math.floor(math.log10(greatest)) if greatest else 0
        needed = (
            n for n in range(max(n_decimals, 0)) if all(math.isclose(round(x, n), x, abs_tol=1e-9 * greatest) for x in numbers)
        )
        form = f".{next(needed, max(n_decimals, 0))}f"
    return [f"{value:z{form}}".replace("-", "\N{MINUS SIGN}") for value in numbers]


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, x_label: str, y_label: str) -> Figure:
    """Return a figure of lines, `{name: (x, y)}`, each with its name at its end.

    A few lines of few points have them marked; after six colours come dashes. Values that are not finite leave out their point. Raises
    ValueError when none is finite, or when a line has not one y for each x.
    """
    from matplotlib.figure import Figure

    points = {name: found for name, (x, y) in series.items() if (found := finite_points(name, x, y))}
    if not points:
        raise ValueError("there is nothing to draw: no line has a finite value")
    with style():
        figure = Figure(figsize=(7.2, max(4.0, 0.2 * len(points) + 1.2)))
        axes = figure.add_subplot()
        ends = []
        looks = cycle([(colour, dash) for dash in _DASHES for colour in PALETTE])
        for (name, pairs), (colour, dash) in zip(points.items(), looks, strict=False):
            x, y = zip(*pairs, strict=True)
            is_marked = len(x) < MARKED_BELOW and len(points) <= len(PALETTE)
            marker: dict[str, Any] = {"marker": "o", "markersize": 4, "markeredgecolor": "white"} if is_marked else {}
            axes.plot(x, y, color=colour, linestyle=dash, zorder=2, **marker)
            ends.append((shortened(token_label(name), 28), y[-1], colour))
        _frame_lines(axes, [pair for pairs in points.values() for pair in pairs])
        label_ends(axes, ends)
        axes.set_xlabel(x_label, parse_math=False)
        axes.set_ylabel(y_label, parse_math=False)
        write_title(axes, title, width=6.0)
        figure.set_label(f"{title}: {y_label} over {x_label} as {len(points)} lines: {', '.join(points)}")
    return figure


def _frame_lines(axes: Axes, pairs: list[tuple[float, float]]) -> None:
    """Fit the axes to the points, with a line at zero where values lie on both sides, and whole numbers where x has only those."""
    from matplotlib.ticker import MaxNLocator

    x, y = zip(*pairs, strict=True)
    room = 0.06 * (max(y) - min(y)) or 0.06 * abs(max(y)) or 0.5
    axes.set_ylim(min(y) - room, max(y) + room)
    margin = 0.015 * (max(x) - min(x)) or 0.5
    axes.set_xlim(min(x) - margin, max(x) + margin)
    if all(value == int(value) for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    if min(y) < 0 < max(y):
        axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
