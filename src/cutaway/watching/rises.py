"""When a value rose, or fell: the steps between which it passed most of its way from where it began to where it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Rise", "find_rise"]

_FIRST, _HALF, _LAST = 0.1, 0.5, 0.9


@dataclass(frozen=True)
class Rise:
    """A value's way from its first to its last: after how many steps a tenth, half and nine tenths of it were passed."""

    start: float
    end: float
    first: float
    half: float
    last: float

    def overlap(self, other: Rise) -> float:
        """Return how much of the shorter of two rises, from a tenth to nine tenths, lies within the longer one, from 0 to 1."""
        shared = min(self.last, other.last) - max(self.first, other.first)
        shorter = min(self.last - self.first, other.last - other.first)
        if shorter <= 0:
            return float(shared >= 0)
        return max(shared, 0.0) / shorter

    def said(self, digits: int = 2) -> str:
        """Return it in words: `rose from 0.05 to 0.81 between steps 600 and 1,000`."""
        way, window = "rose" if self.end > self.start else "fell", f"{round(self.first):,} and {round(self.last):,}"
        return f"{way} from {self.start:z.{digits}f} to {self.end:z.{digits}f} between steps {window}"

    def to_dict(self) -> dict[str, Any]:
        """Return the values and the steps, as JSON can hold them."""
        return {
            "from": self.start, "to": self.end, "step_10_percent": self.first, "step_50_percent": self.half,
            "step_90_percent": self.last,
        }  # fmt: skip


def find_rise(steps: Sequence[float], values: Sequence[float]) -> Rise | None:
    """Return when a value went from its first to its last, `steps` growing and points joined by straight lines.

    Half of the way is passed when the curve first comes there. A tenth is where it was last before that, nine tenths where it is first
    after, so that noise at either end does not widen the window. None where the value ends where it began, moves by less than half of
    the range that it wanders over, or has fewer than two finite points.
    """
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if len(points) < 2:
        return None
    start, end = points[0][1], points[-1][1]
    spread = max(value for _, value in points) - min(value for _, value in points)
    if start == end or abs(end - start) < spread / 2:
        return None
    way = [(step, (value - start) / (end - start)) for step, value in points]
    crossings = [_crossings(way, share) for share in (_FIRST, _HALF, _LAST)]
    half = crossings[1][0]
    return Rise(
        start=start,
        end=end,
        first=max(step for step in crossings[0] if step <= half),
        half=half,
        last=min(step for step in crossings[2] if step >= half),
    )


def _crossings(way: Sequence[tuple[float, float]], share: float) -> list[float]:
    """Return the steps at which a curve comes to a share of its way, upwards."""
    return [
        before + (share - low) / (high - low) * (after - before)
        for (before, low), (after, high) in pairwise(way)
        if low < share <= high
    ]
