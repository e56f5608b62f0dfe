"""Colours that figures, pages and terminals share; all are told apart with the common kinds of colour blindness."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["PALETTE", "INK", "MUTED", "FAINT", "SEQUENTIAL", "DIVERGING", "colour_limits", "colour_at", "readable_on", "Rgb"]

Rgb = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""

# Okabe and Ito 2008. The lightest, yellow, is left out: it drowns on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of series, in the order in which they are given out."""

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#dddddd"
"""Colours of titles, of labels and ticks, of axes and grids."""

# Both arms go down in CIE lightness by the same steps (97, 90, 80, 66, 52, 38, 25), in the hues of the palette's first two colours:
# lightness alone says how far from zero, which survives a grey print, and blue against orange says on which side.
SEQUENTIAL = ("#f7f7f7", "#d6e6f2", "#a3cbe5", "#62a8d4", "#2283bd", "#0b5f94", "#083f66")
"""From nothing to the greatest magnitude."""

DIVERGING = ("#632d05", "#91450a", "#c1601a", "#e38b51", "#f3ba92", "#fadfcc", *SEQUENTIAL)
"""From the most negative value over zero to the most positive one."""


def colour_limits(least: float, greatest: float, *, signed: bool, limit: float | None = None) -> tuple[float, float]:
    """Return the values at the two ends of the colours for values that lie between `least` and `greatest`.

    Signed values get limits symmetric around zero, magnitudes begin at zero; `limit` sets the upper end, the same in several pictures.
    Raises ValueError for a limit that is not a positive number.
    """
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise ValueError(f"limit is {limit}: expected a positive number, the value of the deepest colour")
    if not (math.isfinite(least) and math.isfinite(greatest)):
        least = greatest = 0.0
    if signed:
        high = limit or max(abs(least), abs(greatest)) or 1.0
        return -high, high
    low = min(least, 0.0) if least < 0 else 0.0
    high = limit or greatest
    return (low, high) if high > low else (low, low + 1.0)


def colour_at(value: float, limits: tuple[float, float], colours: Sequence[str]) -> Rgb:
    """Return the colour of a value, found between the two nearest of `colours`; beyond the limits it is the last one."""
    low, high = limits
    place = min(max((value - low) / (high - low), 0.0), 1.0) * (len(colours) - 1)
    number = min(int(place), len(colours) - 2)
    start, end = _rgb(colours[number]), _rgb(colours[number + 1])
    red, green, blue = (round(a + (b - a) * (place - number)) for a, b in zip(start, end, strict=True))
    return red, green, blue


def readable_on(background: Rgb) -> str:
    """Return black or white, whichever has more contrast with a background (WCAG 2.2, relative luminance)."""
    red, green, blue = map(_linear, background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def _linear(channel: int) -> float:
    share = channel / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def _rgb(colour: str) -> Rgb:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
