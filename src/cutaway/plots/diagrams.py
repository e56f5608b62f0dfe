"""Circuits as pictures: nodes in rows by layer, edges between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cutaway.plots.canvas import Canvas
from cutaway.plots.labels import text_width
from cutaway.plots.routing import Box, route
from cutaway.plots.style import style
from cutaway.report.colours import FAINT, INK, MUTED, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Arrow", "Row", "diagram"]

_SIZE = 8.0  # points
_ROW, _GAP, _PAD = 0.52, 0.12, 0.08  # inches: from row to row, between nodes, beside a label
_HEIGHT, _WIDTH, _NARROW = 0.23, 7.0, 4.2
_BOW = 0.9
_THINNEST, _THICKEST = 0.5, 4.0
_INPUTS = {"q": -0.5, "k": 0.0, "v": 0.5}  # where along the lower side of a node an edge into one of its inputs ends


class Row(NamedTuple):
    """Nodes beside each other."""

    name: str
    nodes: Mapping[str, float]
    """Where each should stand, from 0, the left, to 1; they are moved apart where they would overlap."""
    aside: str | None = None
    """A node that stands to the right of all, half a row higher."""


class Arrow(NamedTuple):
    """An edge to be drawn."""

    source: str
    target: str
    weight: float | None
    """Its width by magnitude and its colour by sign; None for one without a number."""
    input: str = ""
    """Which input of the target it enters: q, k or v; empty where it has one."""


def diagram(rows: Sequence[Row], arrows: Sequence[Arrow], *, title: str, label: str = "") -> Figure:
    """Return a picture of nodes in rows, from the bottom up, and the arrows between them.

    Rows that are too wide go on in a second line. Arrows go around other nodes where a bend can, and behind them else; they are as wide
    as their weight is large, blue above 0, orange below, and enter a node on the left for q, in the middle for k, on the right for v.
    Raises ValueError for arrows between nodes that are not there, and for a node that stands twice.
    """
    with style():
        places, lines = _places(rows)
        if unknown := sorted({end for arrow in arrows for end in arrow[:2]} - places.keys()):
            raise ValueError(f"an arrow begins or ends at {unknown[0]!r}, which stands in no row: give its row")
        top = max(place.y for place in places.values()) + _ROW / 2
        right = max(place.x + place.width / 2 for place in places.values())
        canvas = Canvas()
        axes = canvas.axes(0, 0, right + _BOW, top + _ROW / 2)
        axes.set(xlim=(0, right + _BOW), ylim=(-_ROW / 2, top))
        axes.set_axis_off()
        for y, name in lines:
            axes.plot([0, right], [y, y], color=FAINT, linewidth=0.6, zorder=0)
            axes.text(-0.12, y, name, ha="right", va="center", fontsize=_SIZE, color=MUTED, parse_math=False)
        _draw_arrows(axes, places, arrows)
        _draw_nodes(axes, places)
        _write_key(axes, arrows, label, y=top + 0.08)  # above all, as pictures of many layers are long
        axes.set_title(title, parse_math=False, pad=24)
        return canvas.finish(f"{title}: {len(places)} nodes in {len(rows)} rows, {len(arrows)} arrows")


class _Place(NamedTuple):
    """The middle and the width of a node, in inches."""

    x: float
    y: float
    width: float

    @property
    def box(self) -> Box:
        return self.x - self.width / 2, self.y - _HEIGHT / 2, self.x + self.width / 2, self.y + _HEIGHT / 2


def _places(rows: Sequence[Row]) -> tuple[dict[str, _Place], list[tuple[float, str]]]:
    """Return where each node stands, and the height and name of each line."""
    places: dict[str, _Place] = {}
    heights: list[tuple[float, str]] = []
    widest = max((sum(_width(node) + _GAP for node in row.nodes) for row in rows), default=0.0)
    across = min(max(widest, _NARROW), _WIDTH)
    y = 0.0
    for row in rows:
        given = [*row.nodes, *([row.aside] if row.aside else [])]
        if twice := [node for node in given if node in places or given.count(node) > 1]:
            raise ValueError(f"the node {twice[0]!r} stands twice: give each node once")
        for i, line in enumerate(_lines(row.nodes, across) or [[]]):
            heights.append((y, "" if i else row.name))
            for node, x in zip(
                line, _apart([row.nodes[node] * across for node in line], list(map(_width, line)), across), strict=True
            ):
                places[node] = _Place(x, y, _width(node))
            y += _ROW
        if row.aside:
            places[row.aside] = _Place(across + 0.15 + _width(row.aside) / 2, y - _ROW / 2, _width(row.aside))
    return places, heights


def _lines(nodes: Mapping[str, float], across: float) -> list[list[str]]:
    """Return the nodes from left to right, on as many lines as they take."""
    lines: list[list[str]] = []
    for node in sorted(nodes, key=lambda node: nodes[node]):
        if lines and sum(_width(each) + _GAP for each in [*lines[-1], node]) - _GAP <= across:
            lines[-1].append(node)
        else:
            lines.append([node])
    return lines


def _apart(wanted: list[float], widths: list[float], across: float) -> list[float]:
    """Return places near those that are wanted, in order, without overlap, between 0 and the width."""
    found: list[float] = []
    for x, width in zip(wanted, widths, strict=True):
        least = found[-1] + widths[len(found) - 1] / 2 + _GAP + width / 2 if found else width / 2
        found.append(max(x, least))
    most = across
    for i in reversed(range(len(found))):
        found[i] = min(found[i], most - widths[i] / 2)
        most = found[i] - widths[i] / 2 - _GAP
    return found


def _width(node: str) -> float:
    return text_width(node, _SIZE) + 2 * _PAD


def _draw_arrows(axes: Axes, places: Mapping[str, _Place], arrows: Sequence[Arrow]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    boxes = {node: place.box for node, place in places.items()}
    largest = max((abs(arrow.weight) for arrow in arrows if arrow.weight is not None), default=0.0) or 1.0
    for arrow in sorted(arrows, key=lambda arrow: abs(arrow.weight or 0.0)):
        source, target = places[arrow.source], places[arrow.target]
        start = source.x, source.y + _HEIGHT / 2
        end = target.x + _INPUTS.get(arrow.input, 0.0) * (target.width - 2 * _PAD), target.y - _HEIGHT / 2
        rise = end[1] - start[1]
        is_above = abs(target.x - source.x) < (source.width + target.width) / 2 and rise > _ROW
        bow = min(0.35 + 0.06 * rise, _BOW) / 0.75 if is_above else 0.0
        others = [box for node, box in boxes.items() if node not in (arrow.source, arrow.target)]
        controls = route(start, end, others, across=(0.0, axes.get_xlim()[1]), bow=bow)
        share = abs(arrow.weight) / largest if arrow.weight is not None else 0.2
        path = Path([start, *controls, end], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        axes.add_patch(
            PathPatch(
                path, facecolor="none", edgecolor=_colour(arrow.weight), linewidth=_THINNEST + (_THICKEST - _THINNEST) * share,
                alpha=0.3 + 0.55 * math.sqrt(share), capstyle="round", zorder=1,
            )
        )  # fmt: skip


def _draw_nodes(axes: Axes, places: Mapping[str, _Place]) -> None:
    from matplotlib.patches import FancyBboxPatch

    for node, (x, y, width) in places.items():
        box = FancyBboxPatch(
            (x - width / 2, y - _HEIGHT / 2), width, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.06", facecolor="white",
            edgecolor=MUTED, linewidth=0.8, zorder=2, clip_on=False,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y, node, ha="center", va="center_baseline", fontsize=_SIZE, color=INK, zorder=3, parse_math=False)


def _write_key(axes: Axes, arrows: Sequence[Arrow], label: str, *, y: float) -> None:
    signs = {math.copysign(1, arrow.weight) for arrow in arrows if arrow.weight}
    x = 0.0
    for sign, word in ((1, "above 0"), (-1, "below 0")):
        if sign in signs:
            text = f"{label} {word}".strip()
            axes.text(x, y, text, fontsize=_SIZE, color=_colour(sign), fontweight="bold", parse_math=False)
            x += text_width(text, _SIZE) * 1.15 + 0.25
    if any(arrow.input for arrow in arrows):
        axes.text(x, y, "into a head: left q, middle k, right v", fontsize=_SIZE, color=MUTED, parse_math=False)


def _colour(weight: float | None) -> str:
    return MUTED if weight is None else PALETTE[0] if weight >= 0 else PALETTE[1]
