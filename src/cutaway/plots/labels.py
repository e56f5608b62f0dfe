"""Labels that do not overlap: at the ends of lines, and along the sides of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["label_ends", "label_rows", "label_columns", "text_width", "LINE_HEIGHT"]

LINE_HEIGHT = 1.25  # of the font's size
_POINTS = 72  # an inch
_MAX_LABEL = 24  # characters


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each text beside the axes at the height of its value, in its colour, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    place_of = axes.get_subplotspec()
    n_panels = 1 if place_of is None else place_of.get_gridspec().nrows  # below one another
    height = 0.8 * axes.figure.get_figheight() / n_panels  # type: ignore[union-attr]
    gap = min(0.18 / height, 1 / max(len(ends), 1))  # of the axes' height, from one label to the next
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [(value - low) / (high - low) for _, value, _ in ordered]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + gap)
    ceiling = 1.0
    for place in reversed(range(len(heights))):  # what was pushed out above pushes back down
        heights[place] = ceiling = min(heights[place], ceiling)
        ceiling -= gap
    for (text, _, colour), height in zip(ordered, heights, strict=True):
        axes.text(1.015, height, text, transform=axes.transAxes, color=colour, va="center", fontweight="bold", parse_math=False)


def label_rows(axes: Axes, labels: Sequence[str], *, cell_height: float, size: float) -> None:
    """Write labels left of the rows of a matrix, cells being so many inches high; of rows that are too low, only some."""
    step = _round_step(size * LINE_HEIGHT / _POINTS / cell_height)
    places = range(0, len(labels), step)
    axes.set_yticks(
        [place + 0.5 for place in places],
        [_clipped(labels[place]) for place in places],
        fontsize=size,
        parse_math=False,
    )
    axes.tick_params(axis="y", length=0, pad=4)


def label_columns(axes: Axes, labels: Sequence[str], *, cell_width: float, size: float) -> None:
    """Write labels below the columns of a matrix: level where they fit, else upright; of columns that are too narrow, only some."""
    shown = list(map(_clipped, labels))
    level = _round_step((max((text_width(label, size) for label in shown), default=0.0) + 0.06) / cell_width)
    upright = _round_step(size * LINE_HEIGHT / _POINTS / cell_width)
    is_level = level == 1 or (upright > 1 and level <= 2 * upright)
    places = range(0, len(shown), level if is_level else upright)
    turned: dict[str, Any] = {} if is_level else {"rotation": 90, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    axes.set_xticks(
        [place + 0.5 for place in places],
        [shown[place] for place in places],
        fontsize=size,
        parse_math=False,
        **turned,
    )
    axes.tick_params(axis="x", length=0, pad=4)


def text_width(text: str, size: float) -> float:
    """Return how many inches wide a line of text is in so many points."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family=rcParams["font.family"], size=size), ismath=False
    )
    return float(width) / _POINTS


def _clipped(label: str) -> str:
    return shortened(token_label(label), _MAX_LABEL)


def _round_step(least: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, ... that is not below `least`."""
    power = int(10 ** math.floor(math.log10(max(least, 1.0))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least - 1e-9)
