"""When a value rose, or fell: the steps between which it passed most of its way from where it began to where it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Rise", "find_rise", "random_overlap"]

_FIRST, _HALF, _LAST = 0.1, 0.5, 0.9
_N_PLACES = 200  # at which a window is put by chance


@dataclass(frozen=True)
class Rise:
    """A value's way from its first to its last: after how many steps a tenth, half and nine tenths of it were passed."""

    start: float
    end: float
    first: float
    half: float
    last: float

    def overlap(self, other: Rise) -> float:
        """Return for how much of the steps in which either rises, from a tenth to nine tenths, both do: 1 for one window, 0 for two."""
        return _overlap((self.first, self.last), (other.first, other.last))

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


def random_overlap(first: Rise, second: Rise, n_steps: int) -> float:
    """Return how much rises as long as these overlap that begin anywhere in a training of `n_steps`, independently: the mean."""
    windows = []
    for length in (first.last - first.first, second.last - second.first):
        begins = ((place + 0.5) / _N_PLACES * (n_steps - length) for place in range(_N_PLACES))
        windows.append([(begin, begin + length) for begin in begins])
    return sum(_overlap(one, other) for one in windows[0] for other in windows[1]) / _N_PLACES**2


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    shared = min(first[1], second[1]) - max(first[0], second[0])
    either = max(first[1], second[1]) - min(first[0], second[0])
    return max(0.0, shared) / either if either > 0 else 1.0


def _crossings(way: Sequence[tuple[float, float]], share: float) -> list[float]:
    """Return the steps at which a curve comes to a share of its way, upwards."""
    return [
        before + (share - low) / (high - low) * (after - before)
        for (before, low), (after, high) in pairwise(way)
        if low < share <= high
    ]
