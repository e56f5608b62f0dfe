"""What byte-level vocabularies share: how text is cut into words, and how bytes are shown as letters in files."""

from __future__ import annotations

__all__ = ["GPT2_PATTERN", "CL100K_PATTERN", "BYTES", "to_letters", "from_letters"]

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Cuts text into what a token may lie within: an English ending, or a run of letters, digits, other signs or spaces. One space
belongs to the word that follows it. Source: openai/gpt-2, src/encoder.py."""

CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
"""The same for cl100k: at most three digits together, line ends apart. Source: openai/tiktoken, tiktoken_ext/openai_public.py."""

_SHOWN = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]

BYTES = tuple(bytes([byte]) for byte in _SHOWN + _HIDDEN)
"""The 256 single bytes in the order of GPT-2's ids: first those that are visible characters of Latin-1."""

# A vocabulary's file is text, and most bytes are not: each byte is written as one visible letter. A byte that is visible in
# Latin-1 stands for itself and the others, in their order, take the letters from U+0100 on: a space is written Ġ.
_LETTERS = [chr(byte) for byte in _SHOWN] + [chr(256 + place) for place in range(len(_HIDDEN))]
_LETTER_OF = dict(zip(_SHOWN + _HIDDEN, _LETTERS, strict=True))
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}


def to_letters(token: bytes) -> str:
    """Return a token as vocabulary files show it, a visible letter a byte: `" the"` is `"Ġthe"`.

    Source: `bytes_to_unicode` in openai/gpt-2, src/encoder.py.
    """
    return "".join([_LETTER_OF[byte] for byte in token])


def from_letters(letters: str) -> bytes:
    """Return the token that `to_letters` shows so. Raises ValueError for a letter that stands for no byte."""
    try:
        return bytes([_BYTE_OF[letter] for letter in letters])
    except KeyError as error:
        raise ValueError(f"{letters!r} is no byte-level token: {error} stands for no byte") from None
