"""Points that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["finite_points"]


def finite_points(name: str, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Return the points of a series without those that are not finite; raises ValueError for one that has not a y for each x."""
    if len(x) != len(y):
        raise ValueError(f"{name!r} has {len(x)} values of x and {len(y)} of y: give one y for each x")
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
