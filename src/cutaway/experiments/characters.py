"""The text of characters that experiments learn from, and windows of it."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.data import read_corpus
from cutaway.tokenizers import CharTokenizer

__all__ = ["random_windows", "read_characters"]


def read_characters(corpus: str, n_characters: int) -> tuple[CharTokenizer, Int[Tensor, " token"]]:
    """Return the first so many characters of a corpus that are plain ASCII, and the tokenizer of those that come up."""
    text = read_corpus(corpus).text.encode("ascii", "ignore").decode()[:n_characters]
    tokenizer = CharTokenizer.fit(text)
    return tokenizer, torch.tensor(tokenizer.encode(text))


def random_windows(
    tokens: Int[Tensor, " token"], n_pos: int, n_windows: int, *, generator: torch.Generator
) -> tuple[Int[Tensor, "window pos"], Int[Tensor, "window pos"]]:
    """Return windows that begin anywhere in a text, and what comes next at each of their places."""
    begin = torch.randint(len(tokens) - n_pos, (n_windows, 1), generator=generator)
    window = tokens[begin + torch.arange(n_pos + 1)]
    return window[:, :-1], window[:, 1:]
