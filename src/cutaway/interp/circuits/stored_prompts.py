"""The prompts that a circuit was found with and checked on, as its file keeps them: the circuit is then run with no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["MOST_TOKENS", "StoredPair", "StoredPrompts", "one_line_lists"]

MOST_TOKENS = 200_000
"""Prompts of more tokens together are not kept with a circuit, only their hashes and where they are from."""


class StoredPair(NamedTuple):
    """A clean and a corrupted prompt by their tokens, and the token of each answer."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    correct: int
    wrong: int | None
    text: str = ""
    """The clean prompt, to be read."""
    corrupted_text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return self._asdict() | {"clean": list(self.clean), "corrupted": list(self.corrupted)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], d_vocab: int) -> StoredPair:
        """Return the pair of `to_dict`; raises ValueError for what are no ids of the model's."""
        pair = cls(**{**values, "clean": tuple(values["clean"]), "corrupted": tuple(values["corrupted"])})
        for each in (*pair.clean, *pair.corrupted, pair.correct, *([] if pair.wrong is None else [pair.wrong])):
            if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < d_vocab:
                raise ValueError(f"a prompt has the token {each!r}; expected an id from 0 to {d_vocab - 1}")
        return pair


@dataclass(frozen=True)
class StoredPrompts:
    """Both parts of the prompt pairs, by the names of the split, with what was measured."""

    metric: str
    """As `--metric` names it."""
    found_with: tuple[StoredPair, ...] = ()
    held_out: tuple[StoredPair, ...] = ()
    """Those it was not found with; none where there was one pair alone."""
    source: str = ""
    """Where they are from: a file, or what made them."""
    left_out: str = ""
    """Why there are none, where there are too many."""

    def __len__(self) -> int:
        return len(self.found_with) + len(self.held_out)

    @classmethod
    def of(
        cls, metric: str, found_with: Sequence[StoredPair], held_out: Sequence[StoredPair], *, source: str = ""
    ) -> StoredPrompts:
        """Return both parts, or where they are too long together a sentence about them."""
        n_pairs, n_tokens = len(found_with) + len(held_out), sum(len(each.clean) * 2 for each in (*found_with, *held_out))
        if n_tokens <= MOST_TOKENS:
            return cls(metric, tuple(found_with), tuple(held_out), source)
        said = f"its {n_pairs:,} pairs have {n_tokens:,} tokens, and up to {MOST_TOKENS:,} are kept with a circuit"
        return cls(metric, source=source, left_out=said + (f"; they are from {source}" if source else ""))

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return {
            "source": self.source,
            "metric": self.metric,
            "left_out": self.left_out,
            "found_with": [pair.to_dict() for pair in self.found_with],
            "held_out": [pair.to_dict() for pair in self.held_out],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], d_vocab: int) -> StoredPrompts:
        """Return those of `to_dict`; raises ValueError for pairs whose prompts have different lengths."""
        parts = {name: tuple(StoredPair.from_dict(pair, d_vocab) for pair in values[name]) for name in ("found_with", "held_out")}
        for pair in (*parts["found_with"], *parts["held_out"]):
            if len(pair.clean) != len(pair.corrupted) or not pair.clean:
                raise ValueError(f"a pair has {len(pair.clean)} and {len(pair.corrupted)} tokens; expected as many, and 1 at least")
        return cls(values["metric"], source=values["source"], left_out=values["left_out"], **parts)


def one_line_lists(text: str) -> str:
    """Return indented JSON with each list of whole numbers on one line; a text in it holds no line break that could look like one."""
    numbers = r"\[\n\s+(-?\d+(?:,\n\s+-?\d+)*)\n\s+\]"
    return re.sub(numbers, lambda found: "[" + " ".join(found[1].split()) + "]", text)
