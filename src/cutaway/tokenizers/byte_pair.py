"""Byte-pair encoding at full speed: the same ids as the code in `bpe`, computed by tiktoken's engine."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cutaway import assets
from cutaway.tokenizers.base import END_OF_TEXT, Tokenizer, check_text
from cutaway.tokenizers.bpe import BPETokenizer
from cutaway.tokenizers.byte_level import BYTES, CL100K_PATTERN, GPT2_PATTERN, from_letters, to_letters
from cutaway.tokenizers.merge_order import LetterPair, order_of_making

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tiktoken

__all__ = ["BytePairTokenizer"]

# Source: openai/tiktoken, tiktoken_ext/openai_public.py. The ids between them are unused.
_CL100K_SPECIAL_TOKENS = {
    END_OF_TEXT: 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}

_LONGEST_BLANK = 500_000
"""At about a million blanks in a row the engine panics, which `except Exception` does not catch (compare openai/tiktoken#15)."""

_LARGEST_ID = 2**24
"""No vocabulary is nearly as large: an id above is damage, and lists as long as it would fill the memory."""


class BytePairTokenizer(Tokenizer):
    """Any byte-level vocabulary: its tokens in the order in which they are merged, and how text is cut into words.

    The engine joins the two neighbours whose bytes together are the earliest of `tokens`: for merges that were learnt this is
    byte-pair encoding. A token's id is its place in `tokens`, or what `ids` says at that place. `unmade_tokens` have an id too,
    and no text is encoded to them.
    Raises ValueError for a token that is empty or comes twice, and for ids that are not one each.
    """

    kind = "byte_pair"

    def __init__(
        self,
        tokens: Sequence[bytes] = BYTES,
        *,
        pattern: str = GPT2_PATTERN,
        special_tokens: Mapping[str, int] | None = None,
        ids: Sequence[int] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        unmade_tokens: Mapping[bytes, int] | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        adds_bos: bool = False,
    ) -> None:
        self.tokens, self.pattern, self.unmade_tokens = list(tokens), pattern, dict(unmade_tokens or {})
        self.ids = list(range(len(tokens)) if ids is None else ids)
        if b"" in self.tokens or len(set(self.tokens)) < len(self.tokens):
            raise ValueError("a token is empty or comes twice; give each token's bytes once")
        if len(self.ids) != len(self.tokens) or len(set(self.ids)) < len(self.ids):
            raise ValueError(f"{len(self.tokens)} tokens and {len(set(self.ids))} different ids; give each token its own id")
        unmade = {token_id: token for token, token_id in self.unmade_tokens.items()}
        if len(unmade) < len(self.unmade_tokens) or not unmade.keys().isdisjoint(self.ids):
            raise ValueError("a token that is never made shares its id with another; give each token its own id")
        super().__init__(
            dict(zip(self.ids, self.tokens, strict=True)) | unmade,
            special_tokens=special_tokens or {},
            added_tokens=added_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            adds_bos=adds_bos,
        )

    @classmethod
    def from_bpe(cls, bpe: BPETokenizer) -> Self:
        """Return the same tokenizer on the engine: where the merges were learnt from text, every text has the same ids.

        Except around characters so new that only one of the two knows them for letters: the engine and the `regex` package each
        have their own tables of Unicode.
        """
        n_ordinary = bpe.d_vocab - len(bpe.special_tokens)
        tokens = [bpe.decode_bytes([token_id]) for token_id in range(n_ordinary)]
        return cls(tokens, pattern=GPT2_PATTERN, special_tokens=bpe.special_tokens)

    @classmethod
    def from_merges(
        cls,
        id_of: Mapping[str, int],
        merges: Sequence[LetterPair],
        *,
        pattern: str,
        special_tokens: Mapping[str, int],
        added_tokens: Mapping[str, int],
        ignores_merges: bool = False,
        bos_token: str | None = None,
        eos_token: str | None = None,
        adds_bos: bool = False,
    ) -> Self:
        """Return the tokenizer of a vocabulary file: ids of tokens in letters, merges in order; the ids of every text are the same.

        `id_of` may repeat special and added tokens. With `ignores_merges` a word that is a token is taken whole, whatever the merges
        would make of it. Raises ValueError for a merge whose tokens have no id, and ids that are negative, too large or shared.
        """
        named = {**added_tokens, **special_tokens}
        if differing := [token for token, token_id in named.items() if id_of.get(token, token_id) != token_id]:
            raise ValueError(f"the token {differing[0]!r} has the ids {id_of[differing[0]]} and {named[differing[0]]}; give it one")
        _check_ids({**id_of, **named})
        own = {token: token_id for token, token_id in id_of.items() if token not in named}
        for left, right in merges:
            if not (left in own and right in own and left + right in own):
                raise ValueError(
                    f"the merge '{left} {right}' needs the tokens {left!r}, {right!r} and {left + right!r}; not all have ids"
                )
        single = [letter for letter in map(to_letters, BYTES) if letter in own]
        longer = [token for token in own if len(token) > 1] if ignores_merges else []
        made = single + order_of_making(merges, whole_words=longer)
        never = own.keys() - set(made)
        return cls(
            [from_letters(token) for token in made],
            pattern=pattern,
            special_tokens=special_tokens,
            ids=[own[token] for token in made],
            added_tokens=added_tokens,
            unmade_tokens={_bytes_of_unmade(token): own[token] for token in sorted(never, key=own.__getitem__)},
            bos_token=bos_token,
            eos_token=eos_token,
            adds_bos=adds_bos,
        )

    def with_end_of_text(self) -> Self:
        """Return the same tokenizer with `<|endoftext|>`, as one id more where it has none."""
        if self.eot is not None:
            return self
        state = self.state_dict()
        return self.from_state_dict({**state, "special_tokens": {**state["special_tokens"], END_OF_TEXT: self.d_vocab}})

    @classmethod
    def gpt2(cls) -> Self:
        """Return GPT-2's tokenizer, 50,257 tokens. Raises AssetError when its files are neither here nor to be had."""
        files = assets.fetch("gpt2-vocab")
        return cls.from_bpe(BPETokenizer.from_gpt2_files(files["encoder.json"], files["vocab.bpe"]))

    @classmethod
    def cl100k(cls) -> Self:
        """Return cl100k (GPT-3.5 and GPT-4), 100,277 ids. Raises AssetError when its file is neither here nor to be had."""
        tokens = _read_tiktoken_file(assets.fetch("cl100k")["cl100k_base.tiktoken"])
        return cls(tokens, pattern=CL100K_PATTERN, special_tokens=_CL100K_SPECIAL_TOKENS)

    def state_dict(self) -> dict[str, Any]:
        """Return the pattern, the tokens in letters (`"Ġthe"`), their ids (null where each is its place) and the special tokens.

        What few vocabularies have, such as added tokens, is there where it is set.
        """
        unmade = {to_letters(token): token_id for token, token_id in self.unmade_tokens.items()}
        return {
            "kind": self.kind,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "ids": None if self.ids == list(range(len(self.ids))) else self.ids,
            **self._own_settings(),
            **({"unmade_tokens": unmade} if unmade else {}),
            "tokens": [to_letters(token) for token in self.tokens],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the tokenizer of the state; no file and no network is needed."""
        return cls(
            [from_letters(letters) for letters in state["tokens"]],
            pattern=state["pattern"],
            special_tokens=state["special_tokens"],
            ids=state["ids"],
            unmade_tokens={from_letters(letters): token_id for letters, token_id in state.get("unmade_tokens", {}).items()},
            **{name: state[name] for name in ("added_tokens", "bos_token", "eos_token", "adds_bos") if name in state},
        )

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids that `encode` gives as an array: the engine's own, so that other threads run meanwhile."""
        if self.added_tokens:
            return super().encode_array(text)
        check_text(text)
        _check_blanks(text)
        places = self._engine.encode_to_numpy(text, disallowed_special=())
        if places.size and places.max() >= len(self.tokens):
            raise self._lacking(places.tolist())
        ids: npt.NDArray[np.uint32] = places if self._ids_of_places is None else self._ids_of_places[places]
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        _check_blanks(text)
        places = self._engine.encode_ordinary(text)
        try:
            return [self.ids[place] for place in places]
        except IndexError:
            raise self._lacking(places) from None

    def _lacking(self, places: Sequence[int]) -> ValueError:
        lacking = sorted(f"{place - len(self.tokens):#04x}" for place in set(places) if place >= len(self.tokens))
        return ValueError(
            f"the vocabulary has no token for the byte(s) {', '.join(lacking)} of this text; remove the characters that "
            "have them, or use a vocabulary with all 256 bytes"
        )

    @cached_property
    def _ids_of_places(self) -> npt.NDArray[np.uint32] | None:
        """The id of each place, None where they are the same."""
        import numpy as np

        return None if self.ids == list(range(len(self.ids))) else np.asarray(self.ids, dtype=np.uint32)

    @cached_property
    def _engine(self) -> tiktoken.Encoding:
        import tiktoken

        places = {token: place for place, token in enumerate(self.tokens)}
        # The engine needs every byte: those that the vocabulary lacks come last, and are refused when they are met.
        places |= {byte: len(self.tokens) + byte[0] for byte in BYTES if byte not in places}
        # It drops what no alternative matches: a last one takes any character by itself, so that nothing is lost.
        pattern = f"{self.pattern}|(?s:.)"
        # None is ever asked of it, but with no special token at all it would look for an empty one after every character.
        special_tokens = {END_OF_TEXT: len(places)}
        try:
            return tiktoken.Encoding(self.kind, pat_str=pattern, mergeable_ranks=places, special_tokens=special_tokens)
        except ValueError as error:
            raise ValueError(f"the pattern {self.pattern!r} that cuts text is not one that the engine reads: {error}") from error


def _check_blanks(text: str) -> None:
    if len(text) > _LONGEST_BLANK and re.search(rf"\s{{{_LONGEST_BLANK}}}", text):
        raise ValueError(f"the text has {_LONGEST_BLANK:,} blank characters in a row, too many for the engine to cut; remove some")


def _check_ids(id_of: Mapping[str, int]) -> None:
    """Raise ValueError unless every token has an id of its own that a vocabulary can have."""
    token_with: dict[int, str] = {}
    for token, token_id in id_of.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id <= _LARGEST_ID:
            raise ValueError(f"the token {token!r} has the id {token_id!r}; expected a whole number from 0 to {_LARGEST_ID:,}")
        if token_id in token_with:
            raise ValueError(f"the tokens {token_with[token_id]!r} and {token!r} share the id {token_id}; give each its own")
        token_with[token_id] = token


def _bytes_of_unmade(token: str) -> bytes:
    """Return what a token decodes to; one that is not written in letters stands for itself, as in Hugging Face's decoder."""
    try:
        return from_letters(token)
    except ValueError:
        return token.encode()


def _read_tiktoken_file(path: Path) -> list[bytes]:
    """Read tiktoken's format, a token in base64 and its rank a line. Raises ValueError when ranks are not 0, 1, 2, ..."""
    lines = [line.split() for line in path.read_bytes().splitlines() if line]
    if [int(rank) for _, rank in lines] != list(range(len(lines))):
        raise ValueError(f"the ranks in {path} are not 0, 1, 2, ...; expected tiktoken's own file")
    return [base64.b64decode(token) for token, _ in lines]
