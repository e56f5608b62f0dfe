"""Tokens that mean nothing, with characters to write them."""

from __future__ import annotations

import string

from cutaway.tokenizers import CharTokenizer

__all__ = ["letters"]

_CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits + "+/"


def letters(d_vocab: int) -> CharTokenizer:
    """Return a tokenizer of so many letters and digits; raises ValueError for more than 64."""
    if not 1 <= d_vocab <= len(_CHARACTERS):
        raise ValueError(f"d_vocab is {d_vocab}; there are characters for 1 to {len(_CHARACTERS)}")
    return CharTokenizer(_CHARACTERS[:d_vocab])
