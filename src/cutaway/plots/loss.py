"""The loss of one or several runs as training goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from cutaway.plots.labels import label_ends
from cutaway.plots.points import finite_points
from cutaway.plots.style import style
from cutaway.report.colours import MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["loss_figure", "smoothed"]

_MANY_POINTS = 60  # more are noise to be smoothed, fewer are measurements to be marked


def loss_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    expected: float | None = None,
    title: str | None = None,
) -> Figure:
    """Return a figure of losses in nats a token over steps: `{label: (steps, losses)}`.

    A curve of many points is drawn smoothed over its raw values, one of few with its points marked; each carries its label and last
    value at its end. `expected` draws a dashed line at the loss that the recipe is known to reach. Values that are not finite are left
    out; raises ValueError when none is finite.
    """
    from matplotlib.figure import Figure

    finite = {label: points for label, curve in curves.items() if (points := finite_points(label, *curve))}
    if not finite:
        raise ValueError("there is nothing to draw: no curve has a finite loss")
    with style():
        figure = Figure(figsize=(7.2, 4.0))
        axes = figure.add_subplot()
        ends = [
            (label, _draw(axes, points, colour), colour)
            for (label, points), colour in zip(finite.items(), cycle(PALETTE), strict=False)
        ]
        _frame(axes, finite, expected)
        if expected is not None:
            ends.append(("expected", expected, MUTED))
        label_ends(axes, [(f"{label} {loss:.3f}", loss, colour) for label, loss, colour in ends])
        axes.set(xlabel="step", ylabel="loss, nats a token", title=title or "")
    return figure


def _draw(axes: Axes, points: list[tuple[float, float]], colour: str) -> float:
    """Draw one curve; return the loss at which it ends."""
    steps, losses = zip(*points, strict=True)
    if len(points) < _MANY_POINTS:
        axes.plot(steps, losses, color=colour, marker="o", markersize=4, markeredgecolor="white", zorder=3)
        return float(losses[-1])
    smooth = smoothed(losses)
    axes.plot(steps, losses, color=colour, linewidth=0.6, alpha=0.3, zorder=1)
    axes.plot(steps, smooth, color=colour, zorder=2)
    return smooth[-1]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the mean of each loss with its neighbours, a thirtieth of all; at the steep start fewer, so that it is not flattened."""
    half = len(losses) // _MANY_POINTS
    windows = [losses[max(place - half, 0) : place + min(half, place) + 1] for place in range(len(losses))]
    return [sum(window) / len(window) for window in windows]


def _frame(axes: Axes, curves: Mapping[str, list[tuple[float, float]]], expected: float | None) -> None:
    """Fit the axes to the curves and to the loss expected."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    steps = [step for points in curves.values() for step, _ in points]
    losses = [loss for points in curves.values() for _, loss in points] + ([] if expected is None else [expected])
    room = 0.06 * (max(losses) - min(losses)) or 0.5
    axes.set_ylim(min(losses) - room, max(losses) + room)
    margin = 0.01 * (max(steps) - min(steps)) or 0.5
    axes.set_xlim(min(steps) - margin, max(steps) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if max(steps) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if expected is not None:
        axes.axhline(expected, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
