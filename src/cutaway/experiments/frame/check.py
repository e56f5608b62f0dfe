"""A check: a number that a claim stands or falls with, the bound it is held against, and the null beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cutaway.report import format_number
from cutaway.values import check_names, check_types

__all__ = ["Check", "number_or_name"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number of one seed with its bounds. Raises ValueError for a check without a bound, which could not fail.

    `null` is the same number where the claim should not hold, such as before training or with labels shuffled, and `null_of` says
    where. A null that would pass too shows that the check proves little.
    """

    name: str
    """What was measured, in the words of a table's row."""
    value: float
    at_least: float | None = None
    at_most: float | None = None
    null: float
    null_of: str
    unit: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"the check {self.name!r} has no bound and could not fail: give at_least or at_most")

    @property
    def passed(self) -> bool:
        """Whether the value keeps the bounds; NaN keeps none."""
        return self._keeps(self.value)

    @property
    def null_passes(self) -> bool:
        """Whether the null would keep them too."""
        return self._keeps(self.null)

    @property
    def expected(self) -> str:
        """The bounds in words."""
        low = None if self.at_least is None else format_number(self.at_least)
        high = None if self.at_most is None else format_number(self.at_most)
        if low is not None and low == high:
            return f"exactly {low}"
        if low is not None and high is not None:
            return f"{low} to {high}"
        return f"at least {low}" if low is not None else f"at most {high}"

    @property
    def misses_by(self) -> float:
        """How far the value is beyond a bound; 0 within them, NaN for NaN."""
        return self._misses_by(self.value)

    @property
    def null_misses_by(self) -> float:
        """How far the null is."""
        return self._misses_by(self.null)

    def _misses_by(self, value: float) -> float:
        below = 0.0 if self.at_least is None else self.at_least - value
        above = 0.0 if self.at_most is None else value - self.at_most
        return math.nan if math.isnan(value) else max(below, above, 0.0)

    def _keeps(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def to_dict(self) -> dict[str, Any]:
        """Return its fields and whether it passed, as values that JSON can hold: `inf`, `-inf` and `nan` by name."""
        values = {name: number_or_name(each) if isinstance(each, float) else each for name, each in asdict(self).items()}
        return values | {"passed": self.passed, "null_passes": self.null_passes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returns; raises ValueError for other fields."""
        fields = {name: value for name, value in values.items() if name not in ("passed", "null_passes")}
        numbers = ("value", "null", "at_least", "at_most")
        fields |= {name: float(fields[name]) for name in numbers if isinstance(fields.get(name), str)}
        check_names(fields, cls, "check")
        return cls(**fields)


def number_or_name(value: float) -> float | str:
    """Return a number, or the name of one that JSON cannot hold; `float` reads either."""
    return value if math.isfinite(value) else str(value)
