"""Sentences with slots, as rows of tokens: a slot is a negative number until a token fills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.tokenizers import WordTokenizer

__all__ = ["Prompts", "Slots", "filled", "template_rows", "template_words"]

Slots = Mapping[str, int]
"""A negative number for each word of a template that stands for others."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of one length, with whatever else is known of each row."""

    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch pos"]
    """The same but for the word that is in question."""

    def rows(self, n: int) -> Self:
        """Return the first `n` prompts."""
        return type(self)(*(getattr(self, each.name)[:n] for each in fields(self)))


def template_words(templates: Sequence[str], slots: Slots) -> list[str]:
    """Return the words of templates in order, without slots."""
    return sorted({word for template in templates for word in template.split()} - slots.keys())


def template_rows(
    templates: Sequence[str], slots: Slots, words: WordTokenizer, *, n_pos: int | None = None
) -> Int[Tensor, "row pos"]:
    """Return templates as rows, filled up with full stops to a length where one is given."""
    ids = [[slots[word] if word in slots else words.encode(word)[0] for word in each.split()] for each in templates]
    if n_pos is not None:
        ids = [row + words.encode(".") * (n_pos - len(row)) for row in ids]
    return torch.tensor(ids)


def filled(rows: Int[Tensor, "batch pos"], slots: Slots, tokens: Mapping[str, Int[Tensor, " batch"]]) -> Int[Tensor, "batch pos"]:
    """Return rows with a token for each row in the slots that are named."""
    for slot, of_rows in tokens.items():
        rows = torch.where(rows == slots[slot], of_rows[:, None], rows)
    return rows
