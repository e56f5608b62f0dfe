"""The look that every figure shares, defined once: type, light axes; the colours are those of `cutaway.report.colours`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.report.colours import FAINT, INK, MUTED
from cutaway.runtime import atomic_path

if TYPE_CHECKING:  # matplotlib takes a third of a second to import
    from matplotlib.figure import Figure

__all__ = ["MARKED_BELOW", "style", "save_figure"]

MARKED_BELOW = 25
"""A line of fewer points has them marked: they are measurements."""

# For tokens of other scripts, where one of them is installed: matplotlib's own font has no Chinese, Japanese or Korean.
_MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")

_RC: Any = {
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

    with rc_context({**_RC, "font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        yield


@cache
def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]


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
