"""What was learned from, and which part of it was left out: tokens of a stream, kept with what learned from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["HELD_OUT", "TrainingData"]

HELD_OUT = 0.1
"""The share of a stream, its end, that is held out from training."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A stream of tokens, of which those from `n_learned` on were held out from training."""

    source: str
    """What the text is called."""
    n_tokens: int
    n_learned: int
    """The tokens before this one may have been learned from."""
    sha256: str | None = None
    """Of the ids, where it is known."""

    def __str__(self) -> str:
        if self.n_learned == self.n_tokens:
            return f"{self.source} ({self.n_tokens:,} tokens, of which none was held out)"
        return f"{self.source} ({self.n_tokens:,} tokens, of which the last {self.n_tokens - self.n_learned:,} were held out)"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingData:
        """Return what `to_dict` wrote; raises ValueError for fields that are not there or are missing."""
        names = {each.name for each in fields(cls)}
        if values.keys() != names:
            raise ValueError(f"training data has the fields {', '.join(sorted(values))}; expected {', '.join(sorted(names))}")
        return cls(**values)
