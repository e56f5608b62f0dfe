"""Nodes in rows and columns, and the lines between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from cutaway.plots.canvas import Canvas, write_title
from cutaway.plots.labels import label_rows
from cutaway.plots.style import style
from cutaway.report.colours import FAINT, INK, MUTED, PALETTE
from cutaway.report.tokens import shortened, token_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "layered_graph"]

_HIGHEST, _LOWEST, _HEIGHT = 0.75, 0.22, 8.0  # inches: a row, and what all rows take where they can
_NARROWEST, _LETTER, _NAMED = 0.14, 0.07, 0.62  # inches: a column, each letter of its name, the widest for its name's sake
_NODE, _DIGIT = 0.1, 0.06  # inches: a node, each letter of its name
_LABEL_SIZE, _NAME_SIZE = 8.5, 6.5  # points
_WIDEST = 3.5  # points of a line
_SIGNS = {True: "o", False: "s"}


class Point(NamedTuple):
    """A node: its row, counted from below, its column, its name where it has one, whether it is filled or stands back, its page."""

    row: int
    column: int
    name: str
    is_main: bool
    href: str = ""


def layered_graph(
    points: Sequence[Point],
    links: Sequence[tuple[int, int, float]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    row_title: str = "",
) -> Figure:
    """Return a figure of nodes, the first row at the bottom, and of lines between them: blue above zero, orange below.

    Links are two places in `points` and a value, whose size is the line's width; nodes of one cell stand side by side. Raises
    ValueError for a node outside the rows and columns, and for no node at all.
    """
    if not points:
        raise ValueError("there is nothing to draw: no node is given")
    if wrong := [each for each in points if each.row not in range(len(rows)) or each.column not in range(len(columns))]:
        raise ValueError(f"{wrong[0]} is outside the {len(rows)} rows and {len(columns)} columns")
    with style():
        edges = _column_edges(points, columns)
        row_height = min(_HIGHEST, max(_LOWEST, _HEIGHT / len(rows)))
        width, height = edges[-1], row_height * len(rows)
        canvas = Canvas()
        canvas.figure.set_size_inches(max(10.0, width + 2), max(10.0, height + 2))
        axes = canvas.axes(0, 0, width, height)
        axes.set(xlim=(0, width), ylim=(0, len(rows)))
        places = _places(points, edges)
        _draw_links(axes, places, links)
        _draw_points(axes, places, points)
        label_rows(axes, rows, cell_height=row_height, size=_LABEL_SIZE)
        axes.set_xticks(
            [(left + right) / 2 for left, right in pairwise(edges)],
            [
                shortened(token_label(name), int(14 * (right - left)))
                for name, (left, right) in zip(columns, pairwise(edges), strict=True)
            ],
            fontsize=_LABEL_SIZE,
            parse_math=False,
        )
        axes.tick_params(axis="x", length=0, pad=4)
        axes.set_ylabel(row_title, parse_math=False)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.hlines(range(1, len(rows)), 0, width, color=FAINT, linewidth=0.5, zorder=0)
        write_title(axes, title, width=width)
        return canvas.finish(f"{title}: {len(points)} nodes and {len(links)} links")


def _column_edges(points: Sequence[Point], columns: Sequence[str]) -> list[float]:
    """Return in inches where columns begin and the last ends, each as wide as its name, up to a limit, and its fullest cell need."""
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for point in points:
        cells[point.row, point.column].append(len(point.name))
    needed = [0.0] * len(columns)
    for (_, column), lengths in cells.items():
        node = min(_NAMED, _NODE + _DIGIT * max(lengths))
        needed[column] = max(needed[column], node * len(lengths))
    named = [min(_NAMED, _NARROWEST + _LETTER * len(token_label(name))) for name in columns]
    return [0.0, *accumulate(map(max, named, needed))]


def _places(points: Sequence[Point], edges: Sequence[float]) -> list[tuple[float, float]]:
    """Return where each node stands, those of a cell side by side."""
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, point in enumerate(points):
        cells[point.row, point.column].append(place)
    found = [(0.0, 0.0)] * len(points)
    for (row, column), members in cells.items():
        left, width = edges[column], edges[column + 1] - edges[column]
        for number, place in enumerate(members):
            found[place] = (left + width * (number + 0.5) / len(members), row + 0.43)
    return found


def _draw_links(axes: Axes, places: Sequence[tuple[float, float]], links: Sequence[tuple[int, int, float]]) -> None:
    from matplotlib.collections import LineCollection

    if not links:
        return
    largest = max(abs(value) for *_, value in links) or 1.0
    ordered = sorted(links, key=lambda link: abs(link[2]))  # the strongest on top
    sizes = [abs(value) / largest for *_, value in ordered]
    axes.add_collection(
        LineCollection(
            [(places[start], places[end]) for start, end, _ in ordered],
            colors=[PALETTE[1] if value < 0 else PALETTE[0] for *_, value in ordered],
            linewidths=[max(_WIDEST * size, 0.3) for size in sizes],
            alpha=[0.15 + 0.6 * size for size in sizes],
            zorder=1,
        )
    )


def _draw_points(axes: Axes, places: Sequence[tuple[float, float]], points: Sequence[Point]) -> None:
    from matplotlib.patheffects import withStroke

    for is_main, marker in _SIGNS.items():
        chosen = [place for place, point in zip(places, points, strict=True) if point.is_main == is_main]
        if chosen:
            x, y = zip(*chosen, strict=True)
            axes.scatter(
                x, y, s=22 if is_main else 12, marker=marker, color=INK if is_main else "white", edgecolor=INK if is_main else MUTED,
                linewidth=0.7, zorder=2,
            )  # fmt: skip
    for (x_place, y_place), point in zip(places, points, strict=True):
        if point.name:
            axes.annotate(
                point.name,
                (x_place, y_place),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=_NAME_SIZE,
                color=PALETTE[0] if point.href else MUTED,
                url=point.href or None,
                parse_math=False,
                path_effects=[withStroke(linewidth=1.8, foreground="white")],  # so that lines do not run through it
                zorder=3,
            )
