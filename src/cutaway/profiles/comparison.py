"""The same work done by several programs in turn, beside what the machine allows at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Comparison"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How long one work took each program, by the median, and how long it takes at the rate of the machine's limit."""

    work: str
    """train, forward, decode or sweep."""
    case: str
    """Model, sizes and precision, in words."""
    length: int
    """Tokens in a row: before the one that is decoded, else at once."""
    unit: str
    """What is counted: tokens, or cells of a sweep."""
    n_units: int
    """How many of them the time is of."""
    ours: Mapping[str, float]
    """Seconds of each of our ways, by its name."""
    peers: Mapping[str, float]
    """Seconds of each other program."""
    limit: str
    """What no program can go below, in words, with the rate measured in the same run."""
    limit_s: float
    flops: float | None = None
    """Operations of the work, where its limit is how fast they are done."""
    agreement: Mapping[str, float]
    """The largest difference between our numbers and a program's, over the largest number."""

    @property
    def times_s(self) -> dict[str, float]:
        """Every program's seconds, ours first."""
        return {**self.ours, **self.peers}

    @property
    def best_s(self) -> float:
        """Seconds of the fastest of our ways."""
        return min(self.ours.values())

    @property
    def best_peer_s(self) -> float | None:
        """Seconds of the fastest other program, None where there is none."""
        return min(self.peers.values(), default=None)

    def label(self, name: str) -> str:
        """Return what a program is called where it stands beside others."""
        return name if name in self.peers or name == "cutaway" else f"cutaway, {name}"

    def per_s(self, name: str) -> float:
        """Return how many units a program does in a second."""
        return self.n_units / self.times_s[name]

    def ratio(self, name: str) -> float | None:
        """Return how many times as fast as the better peer a program is, None where there is no peer."""
        return None if self.best_peer_s is None else self.best_peer_s / self.times_s[name]

    def share(self, name: str) -> float:
        """Return which share of the limit's rate a program reaches."""
        return self.limit_s / self.times_s[name]

    def record(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold, with rates, ratios and shares."""
        programs = {
            name: {
                "is_peer": name in self.peers,
                "time_s": time_s,
                f"{self.unit}_per_s": self.per_s(name),
                "times_the_better_peer": self.ratio(name),
                "share_of_limit": self.share(name),
            }
            for name, time_s in self.times_s.items()
        }
        return {**asdict(self), "programs": programs}
