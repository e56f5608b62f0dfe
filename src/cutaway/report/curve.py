"""Curves drawn with characters: Braille dots where the encoding has them, ASCII where it has not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.text import Text

__all__ = ["Curve", "draw_curves"]

_COLOURS = ("cyan", "yellow", "magenta", "green", "bright_blue", "red")
_UNICODE_MARKERS = "●■▲◆○□△◇"
_ASCII_MARKERS = "ox+#@%&="
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # the bit of the dot in this row and column of a cell
_MAX_LABEL = 24
_MANY_POINTS = 60  # more are noise: a label then gives the mean of the last few


@dataclass(frozen=True)
class Curve:
    """One line to draw: its label, and the values at its steps; values that are not finite leave a gap."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


def draw_curves(
    curves: Sequence[Curve],
    *,
    width: int = 80,
    height: int = 16,
    is_unicode: bool = True,
    first_leads: bool = False,
    least: tuple[float, float] | None = None,
) -> Text:
    """Draw the curves over each other in `width` x `height` characters, each with its label and the value where it ends.

    A curve of few points gets a marker at each, so that curves can be told apart without colour. Where the first leads it lies above
    the others, and is bold. `least` are heights that are shown whatever the values. Ticks are placed by matplotlib's locators. Raises
    ValueError when no curve has a finite point.
    """
    drawn = [curve for curve in map(_finite, curves) if curve.steps]
    if not drawn:
        raise ValueError("there is nothing to draw: no curve has a finite value")
    plot = _Plot(drawn, width=width, height=height, is_unicode=is_unicode, first_leads=first_leads, least=least)
    numbered = list(enumerate(drawn))
    for number, curve in reversed(numbered) if first_leads else numbered:
        plot.draw(number, curve)
    return plot.render()


def _finite(curve: Curve) -> Curve:
    points = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]
    return Curve(curve.label, [step for step, _ in points], [value for _, value in points])


class _Plot:
    """A grid of cells between an axis on the left, one below, and the curves' labels on the right."""

    def __init__(
        self,
        curves: list[Curve],
        *,
        width: int,
        height: int,
        is_unicode: bool,
        first_leads: bool,
        least: tuple[float, float] | None,
    ) -> None:
        self.is_unicode, self.first_leads = is_unicode, first_leads
        self.markers = _UNICODE_MARKERS if is_unicode else _ASCII_MARKERS
        self.dots = (4, 2) if is_unicode else (1, 1)  # dots of one cell: rows, columns
        self.low, self.high = _range([value for curve in curves for value in curve.values] + list(least or ()))
        steps = [step for curve in curves for step in curve.steps]
        self.first, self.last = (min(steps), max(steps)) if min(steps) < max(steps) else (steps[0] - 1, steps[0] + 1)
        self.n_rows = max(height - 2, 3)
        self.y_ticks = _ticks(self.low, self.high, n_most=max(self.n_rows // 2, 2))
        self.left = max(len(label) for _, label in self.y_ticks)
        self.labels = [_label(curve, n_most=min(_MAX_LABEL, width // 4)) for curve in curves]
        self.n_columns = max(width - self.left - 3 - max(map(len, self.labels)) - 3, 10)
        self.x_ticks = _ticks(self.first, self.last, n_most=max(self.n_columns // 9, 1), is_count=True)
        self.ends = [(self._row(curve.values[-1]), curve.values[-1]) for curve in curves]
        self.cells: dict[tuple[int, int], int] = {}
        self.glyphs: dict[tuple[int, int], str] = {}
        self.owner: dict[tuple[int, int], int] = {}

    def draw(self, number: int, curve: Curve) -> None:
        """Draw a line through the means of the dot columns, and markers where there is room for them."""
        import numpy as np

        rows, columns = self.dots
        n_wide, n_high = self.n_columns * columns, self.n_rows * rows
        at = _dot_of(np.asarray(curve.steps, float), self.first, self.last, n_wide)
        counts = np.bincount(at, minlength=n_wide)
        means = np.bincount(at, weights=curve.values, minlength=n_wide)[counts > 0] / counts[counts > 0]
        filled = np.flatnonzero(counts)
        across = np.arange(filled[0], filled[-1] + 1)
        down = _dot_of(np.interp(across, filled, means), self.high, self.low, n_high).tolist()
        for x, (y, y_next) in zip(across.tolist(), pairwise([*down, down[-1]]), strict=True):
            for dot in range(y, y_next, 1 if y_next > y else -1) if y_next != y else (y,):
                self._dot(x, dot, number)
        if len(curve.steps) <= self.n_columns // 2:
            for step, value in zip(curve.steps, curve.values, strict=True):
                column = int(_dot_of(np.asarray(step, float), self.first, self.last, n_wide)) // columns
                self.glyphs[self._row(value), column] = self.markers[number % len(self.markers)]
                self.owner[self._row(value), column] = number
            self.labels[number] = f"{self.markers[number % len(self.markers)]} {self.labels[number]}"

    def render(self) -> Text:
        """Return the rows, the axes and the labels as one text."""
        side, corner, tick, line, down = "│└┤─┬" if self.is_unicode else "|++-+"
        y_labels = {self._row(value): label for value, label in self.y_ticks}
        labels = _spread(self.ends, self.n_rows)
        text = Text(no_wrap=True)
        for row in range(self.n_rows):
            label = y_labels.get(row, "")
            text.append(f"{label:>{self.left}} {tick if label else side}", style="dim")
            for column in range(self.n_columns):
                text.append(self._glyph(row, column), style=self._style(self.owner.get((row, column))))
            if row in labels:
                text.append(f" {self.labels[labels[row]]}", style=self._style(labels[row]))
            text.append("\n")
        axis, below = [line] * self.n_columns, [" "] * (self.n_columns + 8)
        free_from = 0
        for value, label in self.x_ticks:
            column = self._column(value)
            start = max(column - len(label) // 2, 0)
            axis[column] = down
            if start >= free_from:
                below[start : start + len(label)] = label
                free_from = start + len(label) + 1
        text.append(f"{'':{self.left}} {corner}{''.join(axis)} step\n", style="dim")
        text.append(f"{'':{self.left}}  {''.join(below).rstrip()}", style="dim")
        return text

    def _dot(self, x: int, y: int, number: int) -> None:
        rows, columns = self.dots
        cell = (y // rows, x // columns)
        self.owner[cell] = number
        if self.is_unicode:
            self.cells[cell] = self.cells.get(cell, 0) | _DOTS[y % rows][x % columns]
        else:
            self.glyphs[cell] = "." if number == 0 else self.markers[number % len(self.markers)]

    def _glyph(self, row: int, column: int) -> str:
        if (glyph := self.glyphs.get((row, column))) is not None:
            return glyph
        dots = self.cells.get((row, column))
        return " " if dots is None else chr(_BRAILLE | dots)

    def _style(self, number: int | None) -> str:
        if number is None:
            return ""
        return f"{'bold ' if self.first_leads and number == 0 else ''}{_COLOURS[number % len(_COLOURS)]}"

    def _row(self, value: float) -> int:
        rows = self.dots[0]
        return int(_dot_of(value, self.high, self.low, self.n_rows * rows)) // rows

    def _column(self, step: float) -> int:
        columns = self.dots[1]
        return int(_dot_of(step, self.first, self.last, self.n_columns * columns)) // columns


def _dot_of(value: Any, start: float, end: float, n_dots: int) -> Any:
    """Return on which of `n_dots` between `start` and `end` a value falls, or each value of an array."""
    import numpy as np

    return np.rint((value - start) / (end - start) * (n_dots - 1)).astype(int)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest value with some room around."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, *, n_most: int, is_count: bool = False) -> list[tuple[float, str]]:
    """Return ticks between two values and their labels, both matplotlib's."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

    locator = MaxNLocator(n_most, steps=[1, 2, 2.5, 5, 10], integer=is_count, min_n_ticks=2)
    places = [float(place) for place in locator.tick_values(low, high) if low <= place <= high]
    if is_count and high >= 10_000:
        formatter: EngFormatter | ScalarFormatter = EngFormatter(sep="")
    else:
        formatter = ScalarFormatter(useOffset=False, useMathText=False)
        formatter.set_scientific(False)
    formatter.create_dummy_axis()
    formatter.axis.set_view_interval(low, high)  # type: ignore[union-attr]
    formatter.axis.set_data_interval(low, high)  # type: ignore[union-attr]
    labels = [label.replace("\N{MINUS SIGN}", "-") for label in formatter.format_ticks(places)]
    return list(zip(places, labels, strict=True))


def _label(curve: Curve, *, n_most: int) -> str:
    name = curve.label if len(curve.label) <= n_most else f"{curve.label[: n_most - 2]}.."
    last = curve.values[-(len(curve.values) // _MANY_POINTS + 1) :]
    return f"{name} {sum(last) / len(last):.3f}"


def _spread(ends: list[tuple[int, float]], n_rows: int) -> dict[int, int]:
    """Return which label stands in which row: near its curve's end, one a row, the highest value on top.

    `ends` are the row and the value at each curve's end; labels for which there is no row are left out.
    """
    order = sorted(range(len(ends)), key=lambda number: (ends[number][0], -ends[number][1]))[:n_rows]
    rows: list[int] = []
    for number in order:
        rows.append(max(ends[number][0], rows[-1] + 1 if rows else 0))
    for place in reversed(range(len(rows))):  # what was pushed out below pushes back up
        rows[place] = min(rows[place], n_rows - len(rows) + place)
    return dict(zip(rows, order, strict=True))
