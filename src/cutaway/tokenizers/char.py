"""A token a character: the smallest tokenizer there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from cutaway.tokenizers.base import Tokenizer, check_text

__all__ = ["CharTokenizer"]


class CharTokenizer(Tokenizer):
    """Knows the characters of one text; ids follow their code points (tiny Shakespeare's 65, as in nanoGPT).

    >>> CharTokenizer.fit("hello").encode("hole")
    [1, 3, 2, 0]
    """

    kind = "char"

    def __init__(self, characters: str = "") -> None:
        check_text(characters)
        self.characters = "".join(sorted(set(characters)))
        self._id_of = {character: token_id for token_id, character in enumerate(self.characters)}
        super().__init__({token_id: character.encode() for token_id, character in enumerate(self.characters)}, special_tokens={})

    @classmethod
    def fit(cls, text: str) -> Self:
        """Return a tokenizer of the characters that the text has. Raises ValueError for lone surrogates."""
        return cls(text)

    def state_dict(self) -> dict[str, Any]:
        """Return `{"kind": "char", "characters": ...}`, the characters in the order of their ids."""
        return {"kind": self.kind, "characters": self.characters}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the tokenizer of the state's characters."""
        return cls(state["characters"])

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return [self._id_of[character] for character in text]
        except KeyError:
            unknown = sorted(set(text) - self._id_of.keys())
            shown = ", ".join(map(repr, unknown[:10])) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
            raise ValueError(
                f"the character(s) {shown} are not among the {self.d_vocab} that the char tokenizer was fitted on; remove them, "
                "fit it on text that has them, or use a byte-level tokenizer, which can write any text"
            ) from None
