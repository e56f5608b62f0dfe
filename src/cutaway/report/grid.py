"""Matrices of numbers in a terminal, each cell coloured by its value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.measure import Measurement
from rich.style import Style
from rich.text import Text

from cutaway.report.colours import DIVERGING, SEQUENTIAL, colour_at, colour_limits, readable_on
from cutaway.report.numbers import format_fixed
from cutaway.report.tokens import in_ascii, shortened, token_label

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult

__all__ = ["grid", "attention_map", "checked_matrix"]

_MAX_TEXT = 10  # cells for a word beside its number
_MAX_HEADER = 8  # cells of a column's label before it is folded
_HEADER_LINES = 3


def grid(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    signed: bool = False,
    texts: Sequence[Sequence[str]] | None = None,
    digits: int = 2,
    corner: str = "",
    limit: float | None = None,
) -> ConsoleRenderable:
    """Return a matrix "row column" for a terminal: every value as a number on a colour, after its word where `texts` has one.

    Magnitudes go from white to blue, signed values from orange to blue with white at zero. What is wider than the console goes on in
    another block below; consoles without colour show the same numbers. NaN stays empty. `limit` is the value of the deepest colour,
    else the greatest. Raises ValueError when labels, texts and values do not fit together.
    """
    numbers = checked_matrix(values, rows=rows, columns=columns, texts=texts)
    flat = [value for row in numbers for value in row if math.isfinite(value)]
    return _Grid(
        values=numbers,
        texts=[[token_label(text) for text in row] for row in texts] if texts is not None else None,
        rows=list(map(token_label, rows)),
        columns=list(map(token_label, columns)),
        over=[],
        limits=colour_limits(min(flat, default=0.0), max(flat, default=0.0), signed=signed, limit=limit),
        colours=DIVERGING if signed else SEQUENTIAL,
        digits=digits,
        corner=corner,
    )


def attention_map(pattern: ArrayLike, *, tokens: Sequence[str]) -> ConsoleRenderable:
    """Return an attention pattern "q_pos k_pos" for a terminal: a row for each query, and what it gives to every key.

    Where no query looks ahead, keys after their query stay empty. Raises ValueError for a pattern whose sides are not the tokens.
    """
    numbers = checked_matrix(pattern, rows=tokens, columns=tokens, texts=None)
    if all(value == 0 for query, row in enumerate(numbers) for value in row[query + 1 :]):
        numbers = [[*row[: query + 1], *[math.nan] * (len(row) - query - 1)] for query, row in enumerate(numbers)]
    places = [str(pos) for pos in range(len(tokens))]
    labels = [token_label(token) for token in tokens]
    return _Grid(
        values=numbers,
        texts=None,
        rows=[f"{place:>{len(places[-1])}} {label}" for place, label in zip(places, labels, strict=True)],
        columns=labels,
        over=places,
        limits=(0.0, 1.0),
        colours=SEQUENTIAL,
        digits=2,
        corner="query \\ key",
    )


def checked_matrix(
    values: ArrayLike, *, rows: Sequence[str], columns: Sequence[str], texts: Sequence[Sequence[str]] | None
) -> list[list[float]]:
    """Return a matrix as lists; raises ValueError when it has other sides than its labels, or texts for other cells."""
    import numpy as np

    matrix = np.asarray(values, dtype=float)
    expected = (len(rows), len(columns))
    if matrix.shape != expected:
        raise ValueError(f"the values have the shape {matrix.shape}: expected {expected}, a label for each row and each column")
    if texts is not None and ([len(row) for row in texts] != [len(columns)] * len(rows)):
        raise ValueError(f"the texts are {len(texts)} rows: expected {len(rows)} of {len(columns)}, one for each value")
    lists: list[list[float]] = matrix.tolist()
    return lists


@dataclass(frozen=True)
class _Grid:
    values: list[list[float]]
    texts: list[list[str]] | None
    rows: list[str]
    columns: list[str]
    over: list[str]  # what stands over the columns' labels
    limits: tuple[float, float]
    colours: Sequence[str]
    digits: int
    corner: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layout = _Layout(self, width=options.max_width, is_ascii=options.ascii_only)
        for number, block in enumerate(layout.blocks()):
            if number:
                yield Text()
            yield from layout.header(block)
            yield from layout.body(block)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        layout = _Layout(self, width=options.max_width, is_ascii=options.ascii_only)
        least = layout.side + 1 + max(layout.widths, default=0) + 1
        return Measurement(min(least, options.max_width), min(layout.side + 1 + sum(layout.widths) + 1, options.max_width))


class _Layout:
    """Where everything of a grid stands on a console of some width."""

    def __init__(self, matrix: _Grid, *, width: int, is_ascii: bool) -> None:
        self.matrix, self.width = matrix, width
        self.ending = ".." if is_ascii else "…"
        show = in_ascii if is_ascii else str
        self.rows, self.columns = list(map(show, matrix.rows)), list(map(show, matrix.columns))
        self.side = min(max(map(cell_len, [*self.rows, matrix.corner]), default=0), max(width // 4, 8))
        self.numbers = [[format_fixed(value, matrix.digits) for value in row] for row in matrix.values]
        self.number_width = max((len(number) for row in self.numbers for number in row), default=0)
        self.texts = [[shortened(show(text), _MAX_TEXT, ending=self.ending) for text in row] for row in matrix.texts or []]
        self.text_widths = [max(map(cell_len, column)) for column in zip(*self.texts, strict=True)] or [0] * len(self.columns)
        self.widths = [  # of a column with the space before it
            1 + max(self.number_width + (text_width and text_width + 1), min(cell_len(label), _MAX_HEADER), len(over))
            for text_width, label, over in zip(self.text_widths, self.columns, matrix.over or [""] * len(self.columns), strict=True)
        ]

    def blocks(self) -> Iterator[range]:
        """Yield the columns that fit beside each other."""
        start, used = 0, self.side + 2
        for column, width in enumerate(self.widths):
            if used + width > self.width and column > start:
                yield range(start, column)
                start, used = column, self.side + 2
            used += width
        yield range(start, len(self.widths))

    def header(self, block: range) -> Iterator[Text]:
        """Yield the lines over a block, labels folded and standing on its first row."""
        folded = [self._folded(self.columns[column], self.widths[column] - 1) for column in block]
        n_lines = max(map(len, folded), default=1)
        lines = [[""] * (n_lines - len(label)) + label for label in folded]
        if self.matrix.over:
            lines = [[self.matrix.over[column], *label] for column, label in zip(block, lines, strict=True)]
        n_lines += bool(self.matrix.over)
        for number in range(n_lines):
            corner = shortened(self.matrix.corner, self.side, ending=self.ending) if number == n_lines - 1 else ""
            cells = [
                " " + _aligned(label[number], self.widths[column] - 1, is_left=bool(self.texts))
                for column, label in zip(block, lines, strict=True)
            ]
            yield Text(f"{_aligned(corner, self.side, is_left=True)} {''.join(cells)}".rstrip(), style="bold", no_wrap=True)

    def body(self, block: range) -> Iterator[Text]:
        """Yield the rows of a block; those without a number in it are left out."""
        is_part = len(block) < len(self.widths)
        for row, label in enumerate(self.rows):
            if is_part and not any(self.numbers[row][column] for column in block):
                continue
            line = Text(_aligned(shortened(label, self.side, ending=self.ending), self.side, is_left=True) + " ", no_wrap=True)
            for column in block:
                line.append(self._cell(row, column), style=self._style(self.matrix.values[row][column]))
            yield line

    def _cell(self, row: int, column: int) -> str:
        text = self.texts[row][column] if self.texts else ""
        text_width = self.text_widths[column]
        room = self.widths[column] - 1 - text_width
        return f" {_aligned(text, text_width, is_left=True)}{self.numbers[row][column]:>{room}}"

    def _style(self, value: float) -> Style:
        if math.isnan(value):
            return Style.null()
        background = colour_at(value, self.matrix.limits, self.matrix.colours)
        return Style(color=readable_on(background), bgcolor=f"rgb({','.join(map(str, background))})")

    def _folded(self, label: str, width: int) -> list[str]:
        lines = chop_cells(label, width)
        if len(lines) > _HEADER_LINES:
            rest = "".join(lines[_HEADER_LINES - 1 :])
            lines = [*lines[: _HEADER_LINES - 1], shortened(rest, width, ending=self.ending)]
        return lines


def _aligned(text: str, width: int, *, is_left: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return text + space if is_left else space + text
