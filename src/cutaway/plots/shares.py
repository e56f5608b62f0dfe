"""How near programs come to a limit: bars in groups, all on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutaway.plots.canvas import Canvas, write_title
from cutaway.plots.style import style
from cutaway.report.colours import FAINT, INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ShareGroup", "shares"]

_WIDTH, _BAR, _GAP = 4.8, 0.23, 0.46  # inches


@dataclass(frozen=True)
class ShareGroup:
    """One work: a share of its limit for each program, with words to write at its bar's end; those of `ours` are in colour."""

    title: str
    values: Mapping[str, float]
    words: Mapping[str, str]
    ours: Sequence[str]


def shares(groups: Sequence[ShareGroup], *, title: str, x_label: str) -> Figure:
    """Return a figure of bars from 0, a line at 1, one group below the other. Raises ValueError when there is nothing to draw."""
    groups = [group for group in groups if group.values]
    if not groups:
        raise ValueError("there is nothing to draw: no group has a value")
    from matplotlib.ticker import MultipleLocator, PercentFormatter
    from matplotlib.transforms import blended_transform_factory

    height = sum(_GAP + _BAR * len(group.values) for group in groups)
    with style():
        canvas = Canvas()
        axes = canvas.axes(0, 0, _WIDTH, height)
        farthest = max(1.0, *(value for group in groups for value in group.values.values()))
        axes.set(xlim=(0, 1.04 * farthest), ylim=(height, 0))
        ticks, top = list[tuple[float, str]](), 0.0
        beside = blended_transform_factory(axes.transAxes, axes.transData)
        for group in groups:
            heading = top + 0.62 * _GAP
            written = axes.text(
                0.0, heading, group.title, transform=beside, fontsize=9, fontweight="bold", va="center", parse_math=False
            )
            written.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
            written.set_zorder(4)
            top += _GAP
            for name, value in group.values.items():
                middle = top + _BAR / 2
                colour = PALETTE[0] if name in group.ours else "#b8b8b8"
                axes.barh(middle, value, height=0.8 * _BAR, color=colour, zorder=2)
                axes.text(1.02, middle, group.words[name], transform=beside, fontsize=8, color=INK, va="center", parse_math=False)
                ticks.append((middle, name))
                top += _BAR
        axes.axvline(1, color=PALETTE[1], linewidth=1.2, zorder=3)
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=8.5, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=FAINT)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(x_label, parse_math=False)
        write_title(axes, title, width=_WIDTH)
        return canvas.finish(f"{title}: {x_label} as bars, of {', '.join(group.title for group in groups)}")
