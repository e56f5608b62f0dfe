"""How often which value comes up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.plots.canvas import write_title
from cutaway.plots.style import style
from cutaway.report.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["histogram"]


def histogram(
    values: ArrayLike,
    *,
    title: str,
    x_label: str,
    y_label: str = "how often",
    n_bins: int = 40,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Return a figure of how many values "value" lie in each of `n_bins` equal bins; those that are not finite are left out.

    Bins go from 0, or the least value below it, to the greatest, unless `limits` are given, outside which no value is shown. Raises
    ValueError when none is finite.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    numbers = np.asarray(values, float).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise ValueError("there is nothing to draw: no value is finite")
    with style():
        figure = Figure(figsize=(7.2, 3.0))
        axes = figure.add_subplot()
        ends = limits or (min(0.0, float(numbers.min())), float(numbers.max()) or 1.0)
        counts, edges = np.histogram(numbers, bins=n_bins, range=ends)
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=PALETTE[0], edgecolor="white", linewidth=0.6)
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel(x_label, parse_math=False)
        axes.set_ylabel(y_label, parse_math=False)
        write_title(axes, title, width=6.0)
        figure.set_label(f"{title}: {len(numbers)} values of {x_label}, from {numbers.min():.3g} to {numbers.max():.3g}")
    return figure
