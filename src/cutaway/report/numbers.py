"""Sizes, counts and times as people read them."""

from __future__ import annotations

import math
import re
from typing import SupportsFloat

__all__ = [
    "parse_count",
    "parse_bytes",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_duration",
    "format_share",
    "format_fixed",
    "format_number",
    "format_signed",
    "counted",
]


def format_bytes(n_bytes: float | None) -> str:
    """Return a size in the unit that keeps it short, powers of 1000; `-` for a size that is not known.

    >>> format_bytes(1_115_394), format_bytes(812), format_bytes(None)
    ('1.1 MB', '812 B', '-')
    """
    if n_bytes is None:
        return "-"
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_count(count: float) -> str:
    """Return a count in three digits or so.

    >>> format_count(950), format_count(15_600), format_count(124_439_808)
    ('950', '15.6k', '124M')
    """
    value = float(count)
    for unit in ("", "k", "M", "B"):
        if abs(value) < 999.5:
            return f"{value:.0f}{unit}" if not unit or abs(value) >= 99.95 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"


def format_flops(flops_per_s: float) -> str:
    """Return operations a second in three digits or so.

    >>> format_flops(4.63e10), format_flops(4.123e14)
    ('46.3 GFLOP/s', '412 TFLOP/s')
    """
    value = flops_per_s / 1e6
    for unit in ("M", "G", "T"):
        if value < 999.5:
            return f"{value:.0f} {unit}FLOP/s" if value >= 99.95 else f"{value:.1f} {unit}FLOP/s"
        value /= 1000
    return f"{value:.1f} PFLOP/s"


def format_duration(time_s: float) -> str:
    """Return a time in its two largest units.

    >>> format_duration(0.049), format_duration(12.34), format_duration(103), format_duration(7_300)
    ('49 ms', '12.3 s', '1 min 43 s', '2 h 01 min')
    """
    if time_s < 0.9995:
        return f"{time_s * 1000:.0f} ms"
    if time_s < 59.95:
        return f"{time_s:.1f} s"
    minutes, seconds = divmod(round(time_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_share(part: float, whole: float) -> str:
    """Return a part in percent of the whole, never a negative zero.

    >>> format_share(1, 3), format_share(-1, 10_000), format_share(0, 0)
    ('33.3 %', '0.0 %', '-')
    """
    return f"{round(100 * part / whole, 1) + 0.0:.1f} %" if whole else "-"  # -0.0 + 0.0 is 0.0


def format_fixed(value: float, digits: int) -> str:
    """Return a number with so many digits after the point, never a negative zero; nothing for NaN.

    >>> format_fixed(0.126, 2), format_fixed(-0.001, 2), format_fixed(float("nan"), 2)
    ('0.13', '0.00', '')
    """
    if math.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def format_number(value: SupportsFloat) -> str:
    """Return a number in four digits.

    >>> format_number(-5.16583), format_number(0.000123456)
    ('-5.166', '0.0001235')
    """
    return f"{float(value):.4g}"


def format_signed(value: SupportsFloat) -> str:
    """Return a change in four digits, with its sign.

    >>> format_signed(0.014472), format_signed(-2)
    ('+0.01447', '-2')
    """
    return f"{float(value):+.4g}"


_QUANTITY = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4}


def counted(n: int, what: str) -> str:
    """Return a number of things in words: `1 edge`, `1,173 edges`."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def parse_count(text: str) -> int:
    """Return the whole number that a person writes as `format_count` does; raises ValueError for what is none.

    >>> parse_count("50M"), parse_count("1.5B"), parse_count("200_000")
    (50000000, 1500000000, 200000)
    """
    return _parsed(text, text, "a whole number such as 200000, 50M or 1.5B")


def parse_bytes(text: str) -> int:
    """Return the size that a person writes as `format_bytes` does, powers of 1000; raises ValueError for what is none.

    >>> parse_bytes("1GB"), parse_bytes("250 MB"), parse_bytes("4096")
    (1000000000, 250000000, 4096)
    """
    stripped = text.strip()
    without_unit = stripped[:-1] if stripped[-1:] in ("b", "B") else stripped
    return _parsed(text, without_unit, "a size such as 250MB or 1GB")


def _parsed(given: str, quantity: str, expected: str) -> int:
    match = _QUANTITY.fullmatch(quantity.strip())
    power = _POWERS.get(match[2].lower()) if match else None
    if match is None or power is None:
        raise ValueError(f"{given!r} is not {expected}")
    return round(float(match[1].replace("_", "").replace(",", "")) * float(1000**power))
