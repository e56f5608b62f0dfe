"""Byte-pair encoding from scratch: begin with single bytes, and again and again join the pair that is seen most.

What training learns is a list of merges, in order. Encoding a word plays them back on its bytes. This is the code to read;
`BytePairTokenizer.from_bpe` gives the same ids, faster. Source: Sennrich et al. 2016 (arXiv 1508.07909), algorithm 1;
on bytes: Radford et al. 2019 (GPT-2), section 2.2.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Self

import regex

from cutaway.tokenizers.base import Tokenizer, check_text
from cutaway.tokenizers.byte_level import BYTES, GPT2_PATTERN, from_letters, to_letters
from cutaway.tokenizers.pairs import Pair, PairIndex, merge, single_bytes

__all__ = ["BPETokenizer", "learn_merges"]


class BPETokenizer(Tokenizer):
    """Writes any text with bytes and what its merges make of them.

    Ids: the 256 bytes in GPT-2's order, then the token each merge makes, then the special tokens.
    Raises ValueError for a merge whose parts are no earlier tokens.

    >>> BPETokenizer([(b"l", b"o"), (b"lo", b"w")]).encode("lower")
    [257, 68, 81]
    """

    kind = "bpe"

    def __init__(self, merges: Sequence[Pair] = (), *, special_tokens: Sequence[str] = ()) -> None:
        self.merges = list(merges)
        tokens = [*BYTES, *(left + right for left, right in self.merges)]
        self._rank_of = {pair: rank for rank, pair in enumerate(self.merges)}
        self._id_of = {token: token_id for token_id, token in enumerate(tokens)}
        for token_id, pair in enumerate(self.merges, start=len(BYTES)):
            if any(self._id_of.get(part, inf) >= token_id for part in pair):
                raise ValueError(f"the merge {pair} joins what no earlier merge made; give merges in the order learnt")
        if len(self._id_of) < len(tokens):
            raise ValueError("two merges make the same token; give each token once")
        if len(set(special_tokens)) < len(special_tokens):
            raise ValueError(f"a special token comes twice in {special_tokens!r}; give a list with each once")
        super().__init__(
            dict(enumerate(tokens)),
            special_tokens={token: len(tokens) + place for place, token in enumerate(special_tokens)},
        )

    @classmethod
    def train(cls, text: str, d_vocab: int = 4096, *, special_tokens: Sequence[str] = ()) -> Self:
        """Learn merges from a text until there are `d_vocab` tokens, bytes and special tokens counted.

        Raises ValueError when `d_vocab` leaves no room for the bytes, or the text has too few repeated pairs.
        """
        check_text(text)
        n_merges = d_vocab - len(BYTES) - len(special_tokens)
        if n_merges < 0:
            raise ValueError(f"d_vocab is {d_vocab}; the bytes and special tokens alone are {d_vocab - n_merges}: give more")
        words = Counter(match.group() for match in regex.finditer(GPT2_PATTERN, text))
        merges = learn_merges({word.encode(): count for word, count in words.items()}, n_merges)
        if len(merges) < n_merges:
            raise ValueError(
                f"d_vocab is {d_vocab}, and this text of {len(text):,} characters has repeated pairs for no more than "
                f"{d_vocab - n_merges + len(merges)}: give a smaller d_vocab or more text"
            )
        return cls(merges, special_tokens=special_tokens)

    @classmethod
    def from_gpt2_files(cls, encoder_json: str | Path, vocab_bpe: str | Path) -> Self:
        """Return a tokenizer with the merges of GPT-2's two files: `encoder.json` has the ids, `vocab.bpe` the merges.

        Raises ValueError when the ids do not follow the order of the merges.
        """
        lines = Path(vocab_bpe).read_text(encoding="utf-8").split("\n")
        merges = [_parse_merge(line) for line in lines if line and not line.startswith("#version")]
        ids: dict[str, int] = json.loads(Path(encoder_json).read_text(encoding="utf-8"))
        made = {to_letters(token) for token in [*BYTES, *(left + right for left, right in merges)]}
        tokenizer = cls(merges, special_tokens=sorted(ids.keys() - made, key=ids.__getitem__))
        ours = {to_letters(token): token_id for token, token_id in tokenizer._id_of.items()} | tokenizer.special_tokens
        if ours != ids:
            raise ValueError(
                f"the ids in {encoder_json} are not the bytes, then the merges of {vocab_bpe} in order, then special tokens; "
                "expected the two files of GPT-2, or of a vocabulary laid out like it"
            )
        return tokenizer

    def state_dict(self) -> dict[str, Any]:
        """Return the merges, each as in GPT-2's `vocab.bpe` (`"Ġ t"`), and the special tokens in the order of their ids."""
        merges = [f"{to_letters(left)} {to_letters(right)}" for left, right in self.merges]
        return {"kind": self.kind, "merges": merges, "special_tokens": list(self.special_tokens)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the tokenizer with the state's merges and special tokens."""
        return cls([_parse_merge(line) for line in state["merges"]], special_tokens=state["special_tokens"])

    def _encode_ordinary(self, text: str) -> list[int]:
        ids_of_word: dict[str, list[int]] = {}  # most words of a text come again and again
        ids: list[int] = []
        for match in regex.finditer(GPT2_PATTERN, text):
            word = match.group()
            if word not in ids_of_word:
                ids_of_word[word] = [self._id_of[token] for token in self.tokens_of_word(word.encode())]
            ids += ids_of_word[word]
        return ids

    def tokens_of_word(self, word: bytes) -> list[bytes]:
        """Play the merges on a word: of the pairs it has, always the one that was learnt first."""
        tokens = single_bytes(word)
        while len(tokens) > 1:
            earliest = min(pairwise(tokens), key=lambda pair: self._rank_of.get(pair, inf))
            if earliest not in self._rank_of:
                break
            tokens = merge(tokens, earliest)
        return tokens


def learn_merges(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """Return the merges that byte-pair encoding learns from words and how often each is seen, fewer when pairs run out.

    The pair seen most is merged next; `PairIndex.most_seen` says which of several. A pair seen only once is not merged.

    >>> learn_merges({b"low": 5, b"lower": 2, b"newest": 6}, 3)
    [(b'w', b'e'), (b'l', b'o'), (b'e', b'we')]
    """
    index = PairIndex(words)
    merges: list[Pair] = []
    while len(merges) < n_merges and (pair := index.most_seen()) is not None:
        index.merge(pair)
        merges.append(pair)
    return merges


def _parse_merge(line: str) -> Pair:
    """Read a merge as vocabulary files write it: two tokens in letters with a space between."""
    left, separator, right = line.partition(" ")
    if not (left and separator and right):
        raise ValueError(f"{line!r} is no merge; expected two tokens with one space between, such as 'Ġ t'")
    return from_letters(left), from_letters(right)
