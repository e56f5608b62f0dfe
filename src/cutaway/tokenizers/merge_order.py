"""From a list of merges to the order in which tokens are made, which is what tiktoken's engine knows, and back.

A list of merges says which pair is joined before which; the engine says which *bytes* are: of two neighbours it asks only what they
are together. Both give the same ids for every text when the engine knows exactly the tokens that their own merges make again,
each at the place of the merge that makes it. For take any moment at which two neighbours together are such a token: nothing was
joined across its ends so far, so within them everything happened as it happens to the token by itself, and there, the last two
parts are the pair of that merge. A token that comes out otherwise when it is encoded by itself is never made in a longer word
either, by the same reasoning. So it does not matter whether the list has several pairs for one token, or pairs that never meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf

__all__ = ["LetterPair", "order_of_making", "merges_of"]

LetterPair = tuple[str, str]
"""Two tokens side by side, a letter a byte."""


def order_of_making(merges: Sequence[LetterPair], *, whole_words: Iterable[str] = ()) -> list[str]:
    """Return the tokens that merges make, in the order of the merges that make them; a token that is never made is left out.

    `whole_words` that are not made are put last: the engine takes a word that is a token as it is (`ignore_merges`).
    Raises ValueError for a merge that comes twice, and for a whole word that the engine would make of two parts.
    """
    rank_of = {pair: rank for rank, pair in enumerate(merges)}
    if len(rank_of) < len(merges):
        twice = next(pair for rank, pair in enumerate(merges) if rank_of[pair] != rank)
        raise ValueError(f"the merge {' '.join(twice)!r} comes twice; give each once")
    rank_of_token: dict[str, float] = {}
    parts_of: dict[str, LetterPair] = {}
    unsure: set[str] = set()
    for (left, right), rank in rank_of.items():
        token = left + right
        if token in parts_of:
            continue
        if _meet(left, right, rank_of, rank_of_token, parts_of):
            rank_of_token[token], parts_of[token] = rank, (left, right)
        else:
            unsure.add(token)
    for token in unsure - parts_of.keys():  # none where the merges were learnt from text; playing them all would take twice as long
        parts, last_rank = _play(token, rank_of)
        if len(parts) == 1:
            rank_of_token[token] = last_rank
    last = [word for word in whole_words if word not in rank_of_token]
    if joined := [word for word in last if len(_play(word, rank_of)[0]) == 2]:
        raise ValueError(
            f"the token {joined[0]!r} is taken as a whole word (ignore_merges) and no merge joins its two parts, which cannot be "
            "had exactly here; add the merge to the file"
        )
    return sorted(rank_of_token, key=rank_of_token.__getitem__) + last


def merges_of(tokens: Iterable[str]) -> list[LetterPair]:
    """Return the merges that make tokens of several letters in their order; a token that earlier ones do not make has none."""
    rank_of: dict[LetterPair, int] = {}
    for token in tokens:
        parts, _ = _play(token, rank_of)
        if len(parts) == 2:
            rank_of[parts[0], parts[1]] = len(rank_of)
    return list(rank_of)


def _meet(
    left: str,
    right: str,
    rank_of: Mapping[LetterPair, int],
    rank_of_token: Mapping[str, float],
    parts_of: Mapping[str, LetterPair],
) -> bool:
    """Return whether two tokens side by side are surely made before anything is joined across the seam between them.

    Goes back from the two whole tokens: what was made last is taken apart, and what then stood at the seam must not have been
    earlier. Where two are made by the same merge the left one was first.
    """
    while len(left) > 1 or len(right) > 1:
        left_rank, right_rank = (-1 if len(each) == 1 else rank_of_token.get(each, inf) for each in (left, right))
        if inf in (left_rank, right_rank):
            return False
        if left_rank > right_rank:
            left = parts_of[left][1]
            if rank_of.get((left, right), inf) < left_rank:
                return False
        else:
            right = parts_of[right][0]
            if rank_of.get((left, right), inf) <= right_rank:
                return False
    return True


def _play(word: str, rank_of: Mapping[LetterPair, int]) -> tuple[list[str], float]:
    """Join the pairs of a word, always the earliest; return what is left when none can be joined, and the last pair's rank."""
    rank = rank_of.get
    parts = list(word)
    ranks = [rank(pair, inf) for pair in pairwise(parts)]
    last_rank = inf
    while ranks and (earliest := min(ranks)) != inf:
        last_rank, place = earliest, ranks.index(earliest)
        joined = parts[place] = parts[place] + parts.pop(place + 1)
        del ranks[place]
        if place > 0:
            ranks[place - 1] = rank((parts[place - 1], joined), inf)
        if place < len(ranks):
            ranks[place] = rank((joined, parts[place + 1]), inf)
    return parts, last_rank
