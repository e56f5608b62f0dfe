"""Attention patterns, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutaway.plots.canvas import MAX_WIDTH, Canvas, frame, write_heading
from cutaway.plots.labels import label_columns, label_rows
from cutaway.plots.style import style
from cutaway.report.colours import SEQUENTIAL

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["attention"]

_LABEL_SIZE = 7.0  # points
_MOST_ACROSS = 4
_GAP, _TITLE_GAP = 0.18, 0.34  # inches beside and between panels


def attention(patterns: ArrayLike, *, tokens: Sequence[str], titles: Sequence[str], title: str) -> Figure:
    """Return a figure of attention patterns "head q_pos k_pos", a panel each, on one scale from 0 to 1.

    A row says what its query reads, the first query on top. Where no query of any head looks ahead, keys after their query stay empty.
    Tokens stand left of the leftmost panels and below the lowest ones. Raises ValueError when tokens, titles and patterns do not fit
    together.
    """
    with style():
        panels = _checked(patterns, tokens, titles)
        n_heads, n_tokens = len(panels), len(tokens)
        across = max(min(_MOST_ACROSS, n_heads, int(MAX_WIDTH / (max(1.3, 0.0625 * n_tokens) + _GAP))), 1)
        if n_heads > _MOST_ACROSS == across and n_heads % 4 and n_heads % 3 == 0:
            across = 3  # six panels are two full rows of three
        side = min(max(0.16 * n_tokens, 1.6), MAX_WIDTH / across - _GAP, 6.5)
        canvas = Canvas()
        for head, panel in enumerate(panels):
            row, column = divmod(head, across)
            axes = canvas.axes(column * (side + _GAP), row * (side + _TITLE_GAP), side, side)
            drawn = canvas.matrix(axes, panel, limits=(0.0, 1.0), colours=SEQUENTIAL, gap=False)
            frame(axes)
            axes.set_title(titles[head], fontsize=9, fontweight="normal", pad=5, loc="center", parse_math=False)
            label_rows(axes, tokens if column == 0 else [], cell_height=side / n_tokens, size=_LABEL_SIZE)
            is_lowest = head + across >= n_heads
            label_columns(axes, tokens if is_lowest else [], cell_width=side / n_tokens, size=_LABEL_SIZE)
        write_heading(canvas.figure.axes[0], title, width=across * (side + _GAP))
        canvas.colour_bar(drawn, left=across * (side + _GAP) - _GAP, top=0, height=side, label="attention")
        return canvas.finish(f"{title}: {n_heads} attention patterns over {n_tokens} tokens, rows are queries, columns are keys")


def _checked(patterns: ArrayLike, tokens: Sequence[str], titles: Sequence[str]) -> np.ndarray:
    """Return the patterns as an array held against its labels, without what lies ahead of a causal query."""
    import numpy as np

    panels = np.asarray(patterns, dtype=float)
    expected = (len(titles), len(tokens), len(tokens))
    if panels.shape != expected or not panels.size:
        raise ValueError(f"the patterns have the shape {panels.shape}: expected {expected}, a title a head and a token a position")
    ahead = np.triu(np.ones(expected[1:], dtype=bool), k=1)
    return panels if panels[:, ahead].any() else np.where(ahead, np.nan, panels)
