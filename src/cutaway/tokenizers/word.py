"""A token a word, for texts that are made of known words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from cutaway.tokenizers.base import Tokenizer, check_text

__all__ = ["WordTokenizer"]


class WordTokenizer(Tokenizer):
    """Knows the words it is given, each what stands between blanks; ids follow the order in which they were given.

    Tokens are written with a blank before them, as in GPT-2, so that ids come back as text with one blank before every word.
    Raises ValueError for a word that is given twice, is empty or has blanks in it.

    >>> WordTokenizer(["7", "+", "5", "="]).encode("7 + 7 =")
    [0, 1, 0, 3]
    """

    kind = "word"

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.words = tuple(words)
        for word in self.words:
            check_text(word)
            if word.split() != [word]:
                raise ValueError(f"{word!r} is no word: a word has at least one character and no blanks")
        self._id_of = {word: token_id for token_id, word in enumerate(self.words)}
        if len(self._id_of) < len(self.words):
            twice = next(word for token_id, word in enumerate(self.words) if self._id_of[word] != token_id)
            raise ValueError(f"the word {twice!r} is given twice; each word has one id")
        super().__init__({token_id: f" {word}".encode() for token_id, word in enumerate(self.words)}, special_tokens={})

    @classmethod
    def fit(cls, text: str) -> Self:
        """Return a tokenizer of the words that a text has, in the order of their code points."""
        return cls(sorted(set(text.split())))

    def state_dict(self) -> dict[str, Any]:
        """Return `{"kind": "word", "words": [...]}`, the words in the order of their ids."""
        return {"kind": self.kind, "words": list(self.words)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the tokenizer of the state's words."""
        return cls(state["words"])

    def _encode_ordinary(self, text: str) -> list[int]:
        words = text.split()
        if unknown := sorted(set(words) - self._id_of.keys()):
            shown = ", ".join(map(repr, unknown[:10])) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
            some = ", ".join(self.words[:10]) + (", ..." if self.d_vocab > 10 else "")
            raise ValueError(
                f"the word(s) {shown} are not among the {self.d_vocab} of the word tokenizer ({some}): put blanks between words"
            )
        return [self._id_of[word] for word in words]
