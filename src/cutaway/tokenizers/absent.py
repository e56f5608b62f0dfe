"""What stands where a model came without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Self

from cutaway.tokenizers.base import Tokenizer

__all__ = ["NoTokenizer"]


class NoTokenizer(Tokenizer):
    """Knows no token: the model is called with ids, and text raises ValueError with a sentence that says why."""

    kind = "none"

    def __init__(self) -> None:
        super().__init__({}, special_tokens={})

    def decode_bytes(self, ids: Iterable[int]) -> bytes:  # noqa: ARG002
        """Raise ValueError: there is no text."""
        self._refuse()

    def state_dict(self) -> dict[str, Any]:
        """Return `{"kind": "none"}`."""
        return {"kind": self.kind}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """Return it."""
        return cls()

    def _encode_ordinary(self, text: str) -> list[int]:  # noqa: ARG002
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "this model came without a tokenizer: give one by --tokenizer or cutaway.load(..., tokenizer=...), or call it with ids"
        )
