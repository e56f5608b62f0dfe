"""Pairs of neighbouring tokens: joining them, and knowing at any moment which is seen most."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cutaway.tokenizers.byte_level import BYTES

__all__ = ["Pair", "PairIndex", "merge", "single_bytes"]

Pair = tuple[bytes, bytes]
"""Two tokens side by side."""


def single_bytes(word: bytes) -> list[bytes]:
    """Return a word as tokens of one byte each."""
    return [word[place : place + 1] for place in range(len(word))]


def merge(tokens: Sequence[bytes], pair: Pair) -> list[bytes]:
    """Return the tokens with the pair joined wherever it stands, from left to right.

    >>> merge([b"a", b"a", b"a", b"b"], (b"a", b"a"))
    [b'aa', b'a', b'b']
    """
    left, right = pair
    merged: list[bytes] = []
    for token in tokens:
        if token == right and merged and merged[-1] == left:
            merged[-1] = left + right
        else:
            merged.append(token)
    return merged


class PairIndex:
    """Words as tokens, how often each pair is seen in them, and where: kept true as pairs are merged.

    Counting all words again for every merge would be simpler, and hours long on a text for which this takes seconds: a merge
    changes only the words that have the pair.
    """

    def __init__(self, words: Mapping[bytes, int]) -> None:
        """Take words and how often each is seen; every word begins as single bytes."""
        self._tokens_of = [single_bytes(word) for word in words]
        self._n_seen = list(words.values())
        self._id_of = {token: token_id for token_id, token in enumerate(BYTES)}
        self._counts: Counter[Pair] = Counter()
        self._words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        for word in range(len(self._tokens_of)):
            self._count(word)
        self._queue = [self._entry(pair) for pair in self._counts]
        heapq.heapify(self._queue)

    def most_seen(self) -> Pair | None:
        """Return the pair seen most, None when no pair is seen twice.

        Of pairs seen equally often it is the one whose left token has the smallest id, and of those whose right token has: single
        bytes in GPT-2's order come first, then older tokens before newer.
        """
        while self._queue:
            minus_count, _, _, pair = self._queue[0]
            if -minus_count == self._counts[pair]:
                return pair if self._counts[pair] >= 2 else None
            heapq.heappop(self._queue)  # from before the count changed; the pair is in the queue again with the new one
        return None

    def merge(self, pair: Pair) -> None:
        """Join a pair in every word that has it."""
        self._id_of[pair[0] + pair[1]] = len(self._id_of)
        changed: set[Pair] = set()
        for word in self._words_with.pop(pair):
            changed.update(pairwise(self._tokens_of[word]))
            self._count(word, -1)
            self._tokens_of[word] = merge(self._tokens_of[word], pair)
            self._count(word)
            changed.update(pairwise(self._tokens_of[word]))
        for each in changed:
            heapq.heappush(self._queue, self._entry(each))

    def _count(self, word: int, sign: int = 1) -> None:
        """Count a word's pairs, or take them back. The word stays listed under a pair that it no longer has: harmless."""
        for pair in pairwise(self._tokens_of[word]):
            self._counts[pair] += sign * self._n_seen[word]
            self._words_with[pair].add(word)

    def _entry(self, pair: Pair) -> tuple[int, int, int, Pair]:
        """Return a pair as it stands in the queue, a heap with the smallest entry first."""
        left, right = pair
        return -self._counts[pair], self._id_of[left], self._id_of[right], pair
