"""Vectors in the plane: small panels side by side, an arrow a vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from cutaway.plots.canvas import Canvas, frame, write_heading
from cutaway.plots.style import style
from cutaway.report.colours import MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["arrows"]

_SIZE, _GAP, _MOST_COLUMNS = 1.7, 0.3, 4
_LABELLED_SIZE, _MOST_LABELLED = 3.2, 2  # inches, and columns, where there must be room for labels
_LABEL_SIZE, _RINGS = 6.5, (1.08, 1.17, 1.26)  # points, and of the longest vector


def arrows(
    panels: Mapping[str, ArrayLike], *, title: str, labels: Sequence[str] = (), axes_labels: tuple[str, str] = ("", "")
) -> Figure:
    """Return a figure of panels, `{name: vectors}` with vectors as rows of two numbers, all drawn to one scale.

    `labels` name the vectors around them, each in its direction, the same in each panel; without them vectors are told apart by colour.
    `axes_labels` say what lies to the right and upwards. Raises ValueError for vectors that are not of two finite numbers, for none at
    all, and for panels of more or fewer vectors than labels.
    """
    import numpy as np

    vectors = {name: np.asarray(rows, dtype=float) for name, rows in panels.items()}
    for name, rows in vectors.items():
        if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
            raise ValueError(f"the vectors of {name!r} have the shape {rows.shape}: expected rows of two finite numbers")
        if labels and len(labels) != len(rows):
            raise ValueError(f"there are {len(labels)} labels for {len(rows)} vectors of {name!r}: give one a vector")
    if not any(len(rows) for rows in vectors.values()):
        raise ValueError("there is nothing to draw: there are no vectors")
    longest = max(float(np.hypot(*rows.T).max()) if labels else float(np.abs(rows).max()) for rows in vectors.values() if len(rows))
    reach = longest * (1.36 if labels else 1.1)
    size, most = (_LABELLED_SIZE, _MOST_LABELLED) if labels else (_SIZE, _MOST_COLUMNS)
    below = 0.2 if axes_labels[0] else 0.0
    with style():
        canvas = Canvas()
        for place, (name, rows) in enumerate(vectors.items()):
            row, column = divmod(place, most)
            axes = canvas.axes(column * (size + _GAP), row * (size + _GAP + 0.2 + below), size, size)
            _draw(axes, rows.tolist(), labels, longest)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[0], yticks=[0], xticklabels=[], yticklabels=[])
            _frame(axes, name, axes_labels if column == 0 else (axes_labels[0], ""))
            if place == 0:
                write_heading(axes, title, width=min(len(vectors), most) * (size + _GAP))
        return canvas.finish(f"{title}: {len(vectors)} panels, {', '.join(vectors)}")


def _draw(axes: Axes, vectors: list[list[float]], labels: Sequence[str], longest: float) -> None:
    """Draw the arrows, and the labels around them in turns nearer and further out, so that neighbours do not overlap."""
    for (x, y), colour in zip(vectors, cycle(PALETTE[:1] if labels else PALETTE), strict=False):
        axes.plot([0, x], [0, y], color=colour, linewidth=0.8 if labels else None, zorder=2)
        axes.plot([x], [y], color=colour, marker="o", markersize=2.5 if labels else 4, zorder=3)
    around = sorted(zip((math.atan2(y, x) for x, y in vectors), labels, strict=False))
    for place, (angle, label) in enumerate(around):
        radius = longest * _RINGS[place % len(_RINGS)]
        axes.text(
            radius * math.cos(angle), radius * math.sin(angle), label, ha="center", va="center", fontsize=_LABEL_SIZE, color=MUTED,
            parse_math=False,
        )  # fmt: skip


def _frame(axes: Axes, name: str, labels: tuple[str, str]) -> None:
    """Draw the frame, a line through 0 each way, and what the panel and its sides are called."""
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="both")
    frame(axes)
    axes.set_xlabel(labels[0], fontsize=8, labelpad=1, parse_math=False)
    axes.set_ylabel(labels[1], fontsize=8, labelpad=1, parse_math=False)
    axes.text(0.5, 1.03, name, transform=axes.transAxes, ha="center", va="bottom", fontsize=9, color=MUTED, parse_math=False)
