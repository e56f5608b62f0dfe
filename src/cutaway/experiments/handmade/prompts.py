"""Random prompts in pairs: a clean one, and a corrupted one where the answer and the wrong answer have changed places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.tokenizers import Tokenizer

__all__ = ["PromptPair", "PromptBatch", "draw", "draw_prompts"]


class PromptPair(NamedTuple):
    """One clean prompt with its corrupted one; `places` are positions in it that someone wants to know of."""

    clean: str
    corrupted: str
    answer: str
    wrong_answer: str
    places: tuple[int, ...]


class PromptBatch(NamedTuple):
    """Pairs as tokens; `places` has a column for each place."""

    tokens: Int[Tensor, "batch pos"]
    corrupted_tokens: Int[Tensor, "batch pos"]
    answers: Int[Tensor, " batch"]
    wrong_answers: Int[Tensor, " batch"]
    places: Int[Tensor, "batch place"]

    def asked(self) -> dict[str, Tensor]:
        """Return all but the places by their names, as a `Handmade` has them."""
        return {name: value for name, value in self._asdict().items() if name != "places"}


def draw(letters: Sequence[str], n: int, generator: torch.Generator) -> list[str]:
    """Return `n` of these letters, each at most once."""
    return [letters[int(i)] for i in torch.randperm(len(letters), generator=generator)[:n]]


def draw_prompts(
    draw_pair: Callable[[torch.Generator], PromptPair], tokenizer: Tokenizer, n_prompts: int, generator: torch.Generator
) -> PromptBatch:
    """Return so many pairs, all equally long; raises ValueError for less than one."""
    if n_prompts < 1:
        raise ValueError(f"n_prompts is {n_prompts}; give at least 1")
    clean, corrupted, answers, wrong_answers, places = zip(*(draw_pair(generator) for _ in range(n_prompts)), strict=True)
    return PromptBatch(
        tokens=torch.tensor([tokenizer.encode(text) for text in clean]),
        corrupted_tokens=torch.tensor([tokenizer.encode(text) for text in corrupted]),
        answers=torch.tensor(tokenizer.encode("".join(answers))),
        wrong_answers=torch.tensor(tokenizer.encode("".join(wrong_answers))),
        places=torch.tensor(places),
    )
