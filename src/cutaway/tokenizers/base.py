"""What every tokenizer is: text to ids and back, its state as plain JSON, and text from ids as they come."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cutaway.runtime import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["END_OF_TEXT", "Tokenizer", "StreamDecoder", "tokenizer_hash", "check_text"]

END_OF_TEXT = "<|endoftext|>"
"""The special token that ends a document in GPT-2's family."""


class Tokenizer(ABC):
    """A fixed set of tokens, each some bytes with an id, and a way to write any text with them.

    `tokens` gives each id its bytes; `special_tokens` are names that stand for one id each, which ordinary text never
    encodes to. `added_tokens` are ordinary text that is one token wherever it stands, found before the text is cut into words:
    Phi-2's runs of blanks. `d_vocab` is one more than the largest id: some vocabularies leave ids unused.
    Raises ValueError when two tokens share an id, an id is negative, a special or added token is empty, or `bos_token` or
    `eos_token` is neither.
    """

    kind: ClassVar[str]
    """How the JSON state names the class."""
    special_tokens: dict[str, int]
    added_tokens: dict[str, int]
    bos_token: str | None
    """The token that begins a text, by its name."""
    eos_token: str | None
    """The token that ends what a model writes, by its name; in a conversation often another than `<|endoftext|>`."""
    adds_bos: bool
    """Whether the model was trained on texts that begin with `bos_token`, as its tokenizer's file says."""
    d_vocab: int

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        special_tokens: Mapping[str, int],
        *,
        added_tokens: Mapping[str, int] | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        adds_bos: bool = False,
    ) -> None:
        self.special_tokens, self.added_tokens = dict(special_tokens), dict(added_tokens or {})
        self.bos_token, self.eos_token, self.adds_bos = bos_token, eos_token, adds_bos
        self._named = {**self.added_tokens, **self.special_tokens}
        named = {token_id: token.encode() for token, token_id in self._named.items()}
        if shared := sorted(named.keys() & tokens.keys()):
            raise ValueError(f"the ids {shared} are given to ordinary and to special tokens; give each token its own id")
        if len(named) < len(self.special_tokens) + len(self.added_tokens):
            raise ValueError(
                f"two special tokens share an id, or one a name with an added token, in {self._named}; give each its own"
            )
        if "" in self._named:
            raise ValueError("a special token is empty; give it at least one character")
        if unknown := {bos_token, eos_token} - {None} - self._named.keys():
            raise ValueError(f"{sorted(map(str, unknown))} begins or ends a text and is no special token; give it an id as one")
        if adds_bos and bos_token is None:
            raise ValueError("adds_bos is set and there is no bos_token; name the token that begins a text")
        self._bytes_of = {**tokens, **named}
        self.d_vocab = max(self._bytes_of, default=-1) + 1
        if min(self._bytes_of, default=0) < 0:
            raise ValueError(f"the id {min(self._bytes_of)} is negative; ids begin at 0")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d_vocab={self.d_vocab})"

    @cached_property
    def unused_ids(self) -> list[int]:
        """The ids below `d_vocab` that no token has."""
        return [token_id for token_id in range(self.d_vocab) if token_id not in self._bytes_of]

    @property
    def eot(self) -> int | None:
        """The id of `<|endoftext|>`, None where there is no such token."""
        return self.special_tokens.get(END_OF_TEXT)

    @property
    def bos(self) -> int | None:
        """The id of `bos_token`, None where there is none."""
        return None if self.bos_token is None else self._named[self.bos_token]

    @property
    def eos(self) -> int | None:
        """The id of `eos_token`, None where there is none."""
        return None if self.eos_token is None else self._named[self.eos_token]

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of a text; a special token's name in it is ordinary text unless `allow_special`.

        Raises ValueError for text that cannot be written: lone surrogates, or characters the vocabulary lacks.
        """
        check_text(text)
        named, around = (self._named, self._around_named) if allow_special else (self.added_tokens, self._around_added)
        if not named:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for part in around.split(text):
            ids += [named[part]] if part in named else self._encode_ordinary(part)
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids that `encode` gives as an array, for texts by the million."""
        import numpy as np

        return np.asarray(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8, such as half a character, become U+FFFD.

        Raises ValueError for an id without a token.
        """
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids, joined. Raises ValueError for an id without a token."""
        try:
            return b"".join([self._bytes_of[index(token_id)] for token_id in ids])
        except KeyError as unknown:
            raise ValueError(
                f"id {unknown} has no token: the {self.kind} tokenizer has d_vocab {self.d_vocab}; "
                "decode with the tokenizer that the ids came from"
            ) from None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything the tokenizer is as plain JSON values; `"kind"` names the class."""

    @classmethod
    @abstractmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the tokenizer that a state describes. Raises ValueError or KeyError for another state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Become the tokenizer that `state` describes, and return it. Raises ValueError for a state of another kind."""
        if state.get("kind") != self.kind:
            raise ValueError(
                f"the state is of kind {state.get('kind')!r}; {type(self).__name__} loads {self.kind!r}: use load_tokenizer"
            )
        self.__dict__ = self.from_state_dict(state).__dict__
        return self

    def save(self, path: str | Path) -> None:
        """Write the state as JSON, whole or not at all; `load_tokenizer` reads it."""
        atomic_write(Path(path), json.dumps(self.state_dict(), ensure_ascii=False, indent=1) + "\n")

    @abstractmethod
    def _encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of text without surrogates in which no special and no added token counts."""

    def _own_settings(self) -> dict[str, Any]:
        """Return what the tokenizer says of added tokens and of where texts begin and end, for its state: only what is set."""
        settings = {
            "added_tokens": self.added_tokens,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "adds_bos": self.adds_bos,
        }
        return {name: value for name, value in settings.items() if value}

    @cached_property
    def _around_named(self) -> re.Pattern[str]:
        return _splitter(self._named)

    @cached_property
    def _around_added(self) -> re.Pattern[str]:
        return _splitter(self.added_tokens)


class StreamDecoder:
    """Turns ids into text one at a time: a character whose bytes span several tokens comes with the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Take one id and return the characters it completes, often none. Raises ValueError for an id without a token."""
        return self._characters.decode(self._tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """Return U+FFFD where a character was left incomplete, otherwise nothing, and be ready for another text."""
        return self._characters.decode(b"", final=True)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Return the sha256 of the tokenizer's state as JSON with sorted keys, no spaces and ASCII only."""
    canonical = json.dumps(tokenizer.state_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _splitter(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return what splits text around tokens, and keeps them; where one begins another, the longer is meant."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def check_text(text: str) -> None:
    """Raise ValueError where a Python string is no text: a lone surrogate has no UTF-8 bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}, which has no UTF-8 bytes; "
            "decode the text from its bytes again, or remove it with text.encode(errors='replace').decode()"
        ) from None
