"""Matrices as coloured cells: numbers by row and column, and words on the colour of their value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutaway.plots.canvas import MAX_WIDTH, Canvas, write_title
from cutaway.plots.labels import label_columns, label_rows, text_width
from cutaway.plots.style import style
from cutaway.report.colours import DIVERGING, SEQUENTIAL, colour_at, colour_limits, readable_on
from cutaway.report.grid import checked_matrix
from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["heatmap", "token_grid"]

_LABEL_SIZE, _TEXT_SIZE = 8.5, 7.5  # points
_TEXT_PAD = 0.1  # inches beside a text in its cell
_WORD, _WORD_OF_MANY = 11, 8  # cells of a terminal that a word may take, beside few others and beside many
_MANY_WORDS = 14


def heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    row_title: str = "",
    column_title: str = "",
    label: str = "",
    signed: bool = False,
    texts: Sequence[Sequence[str]] | None = None,
    limit: float | None = None,
) -> Figure:
    """Return a figure of a matrix "row column": each value a coloured cell, the first row on top.

    Magnitudes go from white to blue; signed values from orange to blue, white at zero. NaN stays empty. `label` names the values beside
    the colour scale, and `limit` is the value of its deepest colour, else the greatest; what lies beyond is as deep, and the scale ends
    in a point. `texts` are written in their cells where all of them fit. Labels that would overlap are turned upright or thinned.
    Raises ValueError when labels, texts and values do not fit together.
    """
    with style():
        matrix = _array(values, rows, columns, texts)
        shown = [[token_label(text) for text in row] for row in texts] if texts is not None else []
        n_rows, n_columns = matrix.shape
        height = _between(0.24, 4.5 / n_rows, 0.36) if n_rows * 0.24 <= MAX_WIDTH else MAX_WIDTH / n_rows
        width = _between(0.24, 6.0 / n_columns, 0.62)
        level = max((text_width(token_label(name), _LABEL_SIZE) for name in columns), default=0.0) + 0.08
        if level * n_columns <= 6.5:
            width = max(width, level)
        text_room = _needed_width(shown)
        has_texts = bool(shown) and max(width, text_room) * n_columns <= MAX_WIDTH and height >= 0.16
        width = min(max(width, text_room) if has_texts else width, MAX_WIDTH / n_columns)
        return _draw(
            matrix,
            texts=shown if has_texts else [],
            rows=rows,
            columns=columns,
            cell=(width, height),
            limits=_limits(matrix, signed=signed, limit=limit),
            signed=signed,
            title=title,
            titles=(row_title, column_title, label),
        )


def token_grid(
    texts: Sequence[Sequence[str]],
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    label: str,
    signed: bool = False,
    row_title: str = "",
    column_title: str = "",
) -> Figure:
    """Return a figure of words "row column", each on the colour of its value, as for the words that a lens reads at every layer.

    Long words are cut, and the figure is as wide as its words need. Colours as in `heatmap`; raises ValueError likewise.
    """
    with style():
        matrix = _array(values, rows, columns, texts)
        most = _WORD if len(columns) <= _MANY_WORDS else _WORD_OF_MANY
        shown = [[shortened(token_label(text), most) for text in row] for row in texts]
        width = max(_needed_width(shown), 0.42)
        return _draw(
            matrix,
            texts=shown,
            rows=rows,
            columns=columns,
            cell=(width, 0.23),
            limits=_limits(matrix, signed=signed, limit=None),
            signed=signed,
            title=title,
            titles=(row_title, column_title, label),
        )


def _array(values: ArrayLike, rows: Sequence[str], columns: Sequence[str], texts: Sequence[Sequence[str]] | None) -> np.ndarray:
    """Return the values as an array that has been held against its labels."""
    import numpy as np

    matrix = np.asarray(checked_matrix(values, rows=rows, columns=columns, texts=texts), dtype=float)
    if matrix.size == 0:
        raise ValueError(f"there is nothing to draw: the matrix has {len(rows)} rows and {len(columns)} columns")
    return matrix


def _limits(matrix: np.ndarray, *, signed: bool, limit: float | None) -> tuple[float, float]:
    import numpy as np

    finite = matrix[np.isfinite(matrix)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return colour_limits(least, greatest, signed=signed, limit=limit)


def _needed_width(texts: list[list[str]]) -> float:
    """Return the inches of a cell in which every text fits."""
    different = {text for row in texts for text in row}
    return max((text_width(text, _TEXT_SIZE) for text in different), default=0.0) + _TEXT_PAD


def _draw(
    matrix: np.ndarray,
    *,
    texts: list[list[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    cell: tuple[float, float],
    limits: tuple[float, float],
    signed: bool,
    title: str,
    titles: tuple[str, str, str],
) -> Figure:
    n_rows, n_columns = matrix.shape
    width, height = cell[0] * n_columns, cell[1] * n_rows
    colours = DIVERGING if signed else SEQUENTIAL
    row_title, column_title, label = titles
    canvas = Canvas()
    axes = canvas.axes(0, 0, width, height)
    drawn = canvas.matrix(axes, matrix, limits=limits, colours=colours, gap=min(cell) > 0.1)
    label_rows(axes, rows, cell_height=cell[1], size=_LABEL_SIZE)
    label_columns(axes, columns, cell_width=cell[0], size=_LABEL_SIZE)
    axes.set_ylabel(row_title, parse_math=False)
    axes.set_xlabel(column_title, parse_math=False)
    write_title(axes, title, width=width)
    if texts:
        _write(axes, texts, matrix, limits, colours)
    canvas.colour_bar(drawn, left=width, top=0, height=height, label=label)
    low, high = limits
    return canvas.finish(
        f"{title}: {n_rows} rows by {n_columns} columns of {label or 'values'}, colours from {low:.3g} to {high:.3g}"
    )


def _write(axes: Axes, texts: list[list[str]], matrix: np.ndarray, limits: tuple[float, float], colours: Sequence[str]) -> None:
    """Write the texts in the middle of their cells, dark on light and light on dark."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            value = matrix[row, column]
            ink = readable_on(colour_at(value, limits, colours)) if value == value else "#000000"
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center_baseline",
                fontsize=_TEXT_SIZE,
                color=ink,
                parse_math=False,
            )


def _between(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)
