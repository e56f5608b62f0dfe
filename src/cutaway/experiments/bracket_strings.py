"""Strings of brackets, balanced or not, with what is wrong with those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.tokenizers import WordTokenizer

__all__ = ["ANSWERS", "BALANCED", "UNBALANCED", "BracketKinds", "BracketStrings", "Way", "bracket_words"]

ANSWERS = ("unbalanced", "balanced")
UNBALANCED, BALANCED = range(2)
_OPEN, _CLOSE, _ASK = 2, 3, 4
_WORDS = (*ANSWERS, "(", ")", "?")

Way = Literal["balanced", "one flipped", "two swapped", "shuffled", "random"]
"""How strings are drawn: balanced ones; such with a bracket turned round, or with an opening and a later closing one exchanged; as
many opening as closing ones in any order; and any brackets."""

_PARTS: dict[Way, int] = {"balanced": 8, "one flipped": 3, "two swapped": 2, "shuffled": 2, "random": 1}  # of 16 in a mixture
_HASH, _SHARE_HELD_OUT = 2_654_435_761, 8


def bracket_words() -> WordTokenizer:
    """Return a tokenizer that reads `( ( ) ) ?`; the two answers come first, so that the logits' two ids are theirs."""
    return WordTokenizer(_WORDS)


@dataclass(frozen=True, eq=False)
class BracketStrings:
    """Strings of one length, 1 for a bracket that opens and -1 for one that closes."""

    steps: Int[Tensor, "batch bracket"]

    @classmethod
    def drawn(cls, n_rows: int, n_pairs: int, *, way: Way, generator: torch.Generator) -> BracketStrings:
        """Draw strings in one of the ways; those of other ways may happen to be balanced too."""
        if way == "random":
            return cls(2 * torch.randint(2, (n_rows, 2 * n_pairs), generator=generator) - 1)
        if way == "shuffled":
            return cls(_shuffled(n_rows, n_pairs, n_pairs, generator))
        steps = _balanced(n_rows, n_pairs, generator)
        if way == "balanced":
            return cls(steps)
        return cls(_with_one_flipped(steps, generator) if way == "one flipped" else _with_two_swapped(steps, generator))

    @classmethod
    def mixed(cls, n_rows: int, n_pairs: int, *, generator: torch.Generator) -> BracketStrings:
        """Draw strings in all ways, half of them balanced; near misses are commoner than strings that are far from balanced."""
        counts = {way: n_rows * part // sum(_PARTS.values()) for way, part in _PARTS.items()}
        counts["balanced"] += n_rows - sum(counts.values())
        drawn = [cls.drawn(n, n_pairs, way=way, generator=generator).steps for way, n in counts.items()]
        return cls(torch.cat(drawn))

    def __len__(self) -> int:
        return len(self.steps)

    def of_rows(self, chosen: Bool[Tensor, " batch"] | Int[Tensor, " row"]) -> BracketStrings:
        """Return some of them."""
        return BracketStrings(self.steps[chosen])

    def distinct(self) -> BracketStrings:
        """Return each of them once, in the order of their brackets."""
        return BracketStrings(self.steps.unique(dim=0))

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """The brackets and the word that asks, as `bracket_words` numbers them."""
        return torch.nn.functional.pad(torch.where(self.steps > 0, _OPEN, _CLOSE), (0, 1), value=_ASK)

    @property
    def total(self) -> Int[Tensor, " batch"]:
        """How many more open than close."""
        return self.steps.sum(dim=1)

    @property
    def lowest(self) -> Int[Tensor, " batch"]:
        """The least elevation: of how many more open than close up to any bracket; 0 before the first."""
        return self.steps.cumsum(dim=1).amin(dim=1).clamp_max(0)

    @property
    def is_balanced(self) -> Bool[Tensor, " batch"]:
        """Whether the total is 0 and the elevation never below 0."""
        return (self.total == 0) & (self.lowest == 0)

    @property
    def fails_total(self) -> Bool[Tensor, " batch"]:
        """Whether the total alone is wrong: some are never closed."""
        return (self.total != 0) & (self.lowest == 0)

    @property
    def fails_elevation(self) -> Bool[Tensor, " batch"]:
        """Whether the elevation alone is wrong: as many close as open, but one before it was opened."""
        return (self.total == 0) & (self.lowest < 0)

    @property
    def is_held_out(self) -> Bool[Tensor, " batch"]:
        """Whether a string is among the eighth, by its brackets alone, that no model is trained on."""
        n_brackets = self.steps.shape[1]
        places: Tensor = 2 ** torch.arange(n_brackets)
        number = (self.steps > 0).long() @ places + 2**n_brackets
        found: Tensor = (number * _HASH >> 13) % _SHARE_HELD_OUT == 0
        return found


class BracketKinds(NamedTuple):
    """Strings of three kinds: balanced ones, and such with one of the two failures alone."""

    balanced: BracketStrings
    total: BracketStrings
    elevation: BracketStrings

    @classmethod
    def of(cls, strings: BracketStrings) -> BracketKinds:
        """Return those of some strings that are of each kind."""
        kinds = (strings.is_balanced, strings.fails_total, strings.fails_elevation)
        return cls(*(strings.of_rows(chosen) for chosen in kinds))

    def half(self, which: int) -> BracketKinds:
        """Return every other string of each kind."""
        return BracketKinds(*(BracketStrings(each.steps[which::2]) for each in self))

    def dealt_anew(self, generator: torch.Generator) -> BracketKinds:
        """Return the same with the two failures dealt at random to what fails."""
        failing = torch.cat([self.total.steps, self.elevation.steps])
        failing = failing[torch.randperm(len(failing), generator=generator)]
        return BracketKinds(self.balanced, *map(BracketStrings, failing.split([len(self.total), len(self.elevation)])))


def _shuffled(n_rows: int, n_open: int, n_close: int, generator: torch.Generator) -> Int[Tensor, "batch bracket"]:
    order = torch.rand(n_rows, n_open + n_close, generator=generator).argsort(dim=1)
    return torch.where(order < n_open, 1, -1)


def _balanced(n_rows: int, n_pairs: int, generator: torch.Generator) -> Int[Tensor, "batch bracket"]:
    """Return balanced strings, each as likely.

    Of a cycle with one more opening bracket than closing ones exactly one rotation stays above 0 (the cycle lemma, Dvoretzky and
    Motzkin 1947): it begins after the last lowest point, and without its first bracket it is balanced.
    """
    steps = _shuffled(n_rows, n_pairs + 1, n_pairs, generator)
    n = steps.shape[1]
    begin = n - steps.cumsum(dim=1).flip(1).argmin(dim=1, keepdim=True)  # torch gives the first of equal ones
    return steps.gather(1, (begin + torch.arange(n)) % n)[:, 1:]


def _with_one_flipped(steps: Int[Tensor, "batch bracket"], generator: torch.Generator) -> Int[Tensor, "batch bracket"]:
    place = torch.randint(steps.shape[1], (len(steps), 1), generator=generator)
    return steps.scatter(1, place, -steps.gather(1, place))


def _with_two_swapped(steps: Int[Tensor, "batch bracket"], generator: torch.Generator) -> Int[Tensor, "batch bracket"]:
    first = _one_of(steps > 0, generator)
    later = _one_of((steps < 0) & (torch.arange(steps.shape[1]) > first), generator)
    return steps.scatter(1, first, -1).scatter(1, later, 1)


def _one_of(allowed: Bool[Tensor, "batch bracket"], generator: torch.Generator) -> Int[Tensor, "batch 1"]:
    """Return one allowed place of each row at random."""
    return (torch.rand(allowed.shape, generator=generator) + allowed).argmax(dim=1, keepdim=True)
