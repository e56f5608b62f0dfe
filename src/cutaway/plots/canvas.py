"""Axes of a fixed size in inches, and a figure that is cut to what is drawn: cells stay as large as they were made."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutaway.report.colours import FAINT

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Canvas", "write_title", "write_heading", "frame", "MAX_WIDTH"]

MAX_WIDTH = 9.0
"""Inches that the cells of a matrix may take; only the grid of words goes beyond."""

_PAD = 0.15
_MANY_CELLS = 2000  # more are one image
_BAR_WIDTH, _BAR_GAP = 0.12, 0.15


class Canvas:
    """A figure to which matrices are added, each where it is told in inches; `finish` cuts the figure to size."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(10, 10))
        self.figure.set_layout_engine("none")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes whose upper left corner lies so many inches from the canvas's."""
        across, down = self.figure.get_size_inches()
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))

    def matrix(self, axes: Axes, values: np.ndarray, *, limits: tuple[float, float], colours: Sequence[str], gap: bool) -> Any:
        """Draw the values as coloured cells, with a white gap between them or without, the first row on top; NaN stays empty."""
        import numpy as np
        from matplotlib.colors import LinearSegmentedColormap

        n_rows, n_columns = values.shape
        scale: Any = {"cmap": LinearSegmentedColormap.from_list("cutaway", colours), "vmin": limits[0], "vmax": limits[1]}
        masked = np.ma.masked_invalid(values)
        if values.size > _MANY_CELLS or not gap:  # shapes that touch would show seams
            extent = (0, n_columns, n_rows, 0)
            drawn: Any = axes.imshow(masked, interpolation="none", aspect="auto", extent=extent, **scale)
        else:
            drawn = axes.pcolormesh(masked, edgecolors="white", linewidth=0.7, **scale)
        axes.set(xlim=(0, n_columns), ylim=(n_rows, 0))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return drawn

    def colour_bar(self, drawn: Any, *, left: float, top: float, height: float, label: str) -> None:
        """Draw the scale of a matrix beside it, with a point at an end beyond which there are values."""
        import numpy as np
        from matplotlib.ticker import MaxNLocator

        values, (low, high) = np.ma.compressed(drawn.get_array()), drawn.get_clim()
        is_beyond = bool((values < low).any()), bool((values > high).any())
        extend = {(True, False): "min", (False, True): "max", (True, True): "both"}.get(is_beyond, "neither")

        axes = self.axes(left + _BAR_GAP, top, _BAR_WIDTH, min(max(height, 1.1), 3.0))
        bar: Any = self.figure.colorbar(drawn, cax=axes, extend=extend, ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
        bar.outline.set_visible(False)
        bar.solids.set_edgecolor("face")
        axes.grid(visible=False)
        axes.tick_params(labelsize=8, length=0)
        axes.set_ylabel(label, fontsize=8.5, parse_math=False)

    def finish(self, alternative: str) -> Figure:
        """Cut the figure to what is drawn on it and return it, with a text that says what is to be seen."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        figure = self.figure
        canvas: Any = FigureCanvasAgg(figure)
        box = figure.get_tightbbox(canvas.get_renderer())
        across, down = figure.get_size_inches()
        width, height = box.width + 2 * _PAD, box.height + 2 * _PAD
        places = [axes.get_position() for axes in figure.axes]
        figure.set_size_inches(width, height)
        for axes, place in zip(figure.axes, places, strict=True):
            left, bottom = place.x0 * across - box.x0 + _PAD, place.y0 * down - box.y0 + _PAD
            axes.set_position((left / width, bottom / height, place.width * across / width, place.height * down / height))
        figure.set_label(alternative)
        return figure


def write_title(axes: Axes, title: str, *, width: float) -> None:
    """Write a title above axes of so many inches, on as many lines as it takes."""
    axes.set_title(_wrapped(title, width), parse_math=False, pad=8)


def write_heading(axes: Axes, title: str, *, width: float) -> None:
    """Write a title for several axes, so many inches wide in all, above that of the first ones."""
    axes.annotate(
        _wrapped(title, width),
        (0, 1),
        xytext=(0, 26),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize="large",
        fontweight="bold",
        parse_math=False,
    )


def _wrapped(title: str, width: float) -> str:
    n_characters = max(int(width * 9.5), 44)
    return "\n".join(line for part in title.split("\n") for line in textwrap.wrap(part, n_characters))


def frame(axes: Axes) -> None:
    """Draw a thin frame around the axes."""
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.6)
