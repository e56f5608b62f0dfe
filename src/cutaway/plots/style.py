"""The look that every figure shares, defined once: colours, type, light axes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.runtime import atomic_path

if TYPE_CHECKING:  # matplotlib takes a third of a second to import
    from matplotlib.figure import Figure

__all__ = ["PALETTE", "INK", "MUTED", "FAINT", "style", "save_figure"]

# Okabe and Ito 2008: told apart with every common kind of colour blindness. The lightest, yellow, is left out: it drowns on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of series, in the order in which they are given out."""

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#dddddd"
"""Colours of titles, of labels and ticks, of axes and grids."""

_RC: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.hashsalt": "cutaway",  # the same figure gives the same file
    "axes.facecolor": "white",
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw what is inside in the shared look; matplotlib's settings are as before afterwards."""
    from matplotlib import rc_context

    with rc_context(_RC):
        yield


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a file whose ending says how: .png, .svg or .pdf.

    Raises ValueError for an ending that matplotlib does not know; a file of that name is replaced only by a whole one.
    """
    path = Path(path)
    ending = path.suffix.removeprefix(".")
    known = figure.canvas.get_supported_filetypes()
    if ending not in known:
        raise ValueError(f"{path} does not say what kind of picture to write: expected one of .png, .svg, .pdf")
    with style(), atomic_path(path) as temporary:
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
        figure.savefig(temporary, format=ending, metadata=metadata)
    return path
