"""Vectors in the plane: small panels side by side, an arrow a vector."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

from cutaway.plots.canvas import Canvas, frame, write_heading
from cutaway.plots.style import style
from cutaway.report.colours import MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["arrows"]

_SIZE, _GAP, _MOST_COLUMNS = 1.7, 0.3, 4


def arrows(panels: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """Return a figure of panels, `{name: vectors}` with vectors as rows of two numbers, all drawn to one scale.

    Raises ValueError for vectors that are not of two finite numbers, and for none at all.
    """
    import numpy as np

    vectors = {name: np.asarray(rows, dtype=float) for name, rows in panels.items()}
    for name, rows in vectors.items():
        if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
            raise ValueError(f"the vectors of {name!r} have the shape {rows.shape}: expected rows of two finite numbers")
    if not any(len(rows) for rows in vectors.values()):
        raise ValueError("there is nothing to draw: there are no vectors")
    reach = 1.1 * max(float(np.abs(rows).max()) for rows in vectors.values() if len(rows))
    with style():
        canvas = Canvas()
        for place, (name, rows) in enumerate(vectors.items()):
            row, column = divmod(place, _MOST_COLUMNS)
            axes = canvas.axes(column * (_SIZE + _GAP), row * (_SIZE + _GAP + 0.2), _SIZE, _SIZE)
            for (x, y), colour in zip(rows, cycle(PALETTE), strict=False):
                axes.plot([0, x], [0, y], color=colour, zorder=2)
                axes.plot([x], [y], color=colour, marker="o", markersize=4, zorder=3)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[0], yticks=[0], xticklabels=[], yticklabels=[])
            axes.tick_params(length=0)  # a line through 0 is enough
            axes.grid(visible=True, axis="both")
            frame(axes)
            axes.text(
                0.5, 1.03, name, transform=axes.transAxes, ha="center", va="bottom", fontsize=9, color=MUTED, parse_math=False
            )
            if place == 0:
                write_heading(axes, title, width=min(len(vectors), _MOST_COLUMNS) * (_SIZE + _GAP))
        return canvas.finish(f"{title}: {len(vectors)} panels, {', '.join(vectors)}")
