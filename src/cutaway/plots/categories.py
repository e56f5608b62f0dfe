"""A matrix of kinds: which of a few each cell is, with a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutaway.plots.canvas import Canvas, write_title
from cutaway.plots.labels import label_columns, label_rows
from cutaway.plots.style import style
from cutaway.report.colours import FAINT, PALETTE

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["categories"]

_COLOURS = (FAINT, *PALETTE)
_LABEL_SIZE = 8.5  # points
_CELL_WIDTH, _CELL_HEIGHT = 0.5, 0.34  # inches


def categories(
    kinds: ArrayLike,
    *,
    names: Sequence[str],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    row_title: str = "",
    column_title: str = "",
) -> Figure:
    """Return a figure of a matrix "row column" of numbers of kinds, each a cell in its colour, with a key of the kinds that occur.

    `names` are those of kind 0, which is grey, and of kinds 1, 2, ... Raises ValueError when labels and kinds do not fit together, for
    a number that has no name, and for more names than there are colours.
    """
    import numpy as np

    numbers = np.asarray(kinds)
    _check(numbers, names, (len(rows), len(columns)))
    with style():
        width = _CELL_WIDTH * len(columns)
        canvas = Canvas()
        axes = canvas.axes(0, 0, width, _CELL_HEIGHT * len(rows))
        canvas.matrix(axes, numbers.astype(float), limits=(0, len(_COLOURS) - 1), colours=_COLOURS, gap=True)
        label_rows(axes, rows, cell_height=_CELL_HEIGHT, size=_LABEL_SIZE)
        label_columns(axes, columns, cell_width=_CELL_WIDTH, size=_LABEL_SIZE)
        axes.set_ylabel(row_title, parse_math=False)
        axes.set_xlabel(column_title, parse_math=False)
        write_title(axes, title, width=width)
        _write_key(
            axes, {name: colour for kind, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)) if kind in numbers}
        )
        return canvas.finish(f"{title}: {len(rows)} rows by {len(columns)} columns, each cell one of {', '.join(names)}")


def _check(numbers: np.ndarray, names: Sequence[str], expected: tuple[int, int]) -> None:
    if numbers.shape != expected or not numbers.size:
        raise ValueError(f"the kinds have the shape {numbers.shape}: expected {expected}, as many as there are labels")
    if len(names) > len(_COLOURS):
        raise ValueError(f"there are {len(names)} kinds: expected at most {len(_COLOURS)}, a colour each")
    if unnamed := set(numbers.flatten().tolist()) - set(range(len(names))):
        raise ValueError(f"the kind {min(unnamed)} has no name: expected numbers from 0 to {len(names) - 1}")


def _write_key(axes: Axes, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    key = axes.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
    )
    for text in key.get_texts():
        text.set_parse_math(False)
