"""Prompts for indirect object identification: the second name that is not repeated comes next (Wang et al. 2022)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp.circuits import PromptPairs, read_pairs
from cutaway.interp.metrics import Metric, logit_diff
from cutaway.interp.patching import MetricName
from cutaway.language_model import LanguageModel

__all__ = ["TEMPLATES", "IOIPrompts", "ioi_prompts"]

_NAMES = [
    "Mary",
    "John",
    "Tom",
    "James",
    "Sarah",
    "Anna",
    "Paul",
    "Mark",
    "David",
    "Peter",
    "Jack",
    "Alice",
    "Emma",
    "Kate",
    "Sam",
    "Ben",
]
_PLACES = ["store", "garden", "station", "school", "hospital", "office", "house", "restaurant"]
_OBJECTS = ["drink", "book", "ring", "computer", "ball", "kiss", "bag", "letter"]
TEMPLATES = (
    "When{first} and{second} went to the{place},{giver} gave a{object} to",
    "While{first} and{second} were at the{place},{giver} handed a{object} to",
    "After{first} and{second} left the{place},{giver} offered a{object} to",
)
"""The words around names, place and object; the last is a word shorter."""


@dataclass(frozen=True)
class IOIPrompts:
    """Prompts of one length, each beside the same with the other giver, after which the other name comes."""

    texts: tuple[str, ...]
    corrupted_texts: tuple[str, ...]
    tokens: Int[Tensor, "batch pos"]
    corrupted_tokens: Int[Tensor, "batch pos"]
    answers: tuple[int, ...]
    """The token of the name that was not repeated."""
    wrong_answers: tuple[int, ...]
    """The token of the name that was: the giver."""

    @property
    def metric(self) -> Metric:
        """The logit of the right name minus that of the giver, after the last token."""
        return logit_diff(list(self.answers), list(self.wrong_answers))

    def pairs(self, lm: LanguageModel, *, metric: MetricName | None = None) -> PromptPairs:
        """Return them as circuits are found and scored with them."""
        right, wrong = ([lm.text([token]) for token in tokens] for tokens in (self.answers, self.wrong_answers))
        pairs = read_pairs(lm, self.texts, self.corrupted_texts, right, wrong, metric=metric)
        return replace(pairs, source=f"{len(self.texts)} made prompts about an indirect object")


def ioi_prompts(lm: LanguageModel, n_prompts: int = 32, *, seed: int = 0, templates: Sequence[str] | None = None) -> IOIPrompts:
    """Return prompts that `lm` reads in as many tokens each, the repeated name first and second in turn.

    All have one of `TEMPLATES`, drawn, or each one drawn from those given, which have `{first}`, `{second}`, `{place}`, `{giver}` and
    `{object}`: prompts of another template show whether what was found holds for other words. Names, places and objects that are not
    one token are left out. Raises ValueError for a tokenizer with too few that are, and for templates of different length.
    """
    names, places, objects = (_single_tokens(lm, words) for words in (_NAMES, _PLACES, _OBJECTS))
    if len(names) < 4 or not places or not objects:
        raise ValueError(
            "the tokenizer has fewer than 4 of the names, or none of the places or objects, as one token: give prompts of your own "
            "(--prompts FILE, read_pairs in Python), or a model that reads words, as smollm2-135m"
        )
    drawn = random.Random(seed)
    pairs: list[tuple[str, str, str, str]] = []
    templates = [drawn.choice(TEMPLATES)] if templates is None else templates
    for i in range(n_prompts):
        first, second = drawn.sample(names, 2)
        fill = {"first": first, "second": second, "place": drawn.choice(places), "object": drawn.choice(objects)}
        template = templates[0] if len(templates) == 1 else drawn.choice(templates)
        giver, receiver = (first, second) if i % 2 else (second, first)
        pairs.append((template.format(giver=giver, **fill), template.format(giver=receiver, **fill), receiver, giver))
    texts, corrupted, right, wrong = zip(*pairs, strict=True)
    return IOIPrompts(
        texts=texts,
        corrupted_texts=corrupted,
        tokens=_rows(lm, texts),
        corrupted_tokens=_rows(lm, corrupted),
        answers=tuple(_id(lm, name) for name in right),
        wrong_answers=tuple(_id(lm, name) for name in wrong),
    )


def _single_tokens(lm: LanguageModel, words: Sequence[str]) -> list[str]:
    return [f" {word}" for word in words if len(_encoded(lm, f" {word}")) == 1]


def _encoded(lm: LanguageModel, text: str) -> list[int]:
    try:
        return lm.tokenizer.encode(text)
    except ValueError:  # a character that the vocabulary lacks
        return []


def _id(lm: LanguageModel, name: str) -> int:
    return lm.tokenizer.encode(name)[0]


def _rows(lm: LanguageModel, texts: Sequence[str]) -> Tensor:
    rows = [lm.tokens(text) for text in texts]
    if len(lengths := {row.shape[1]: text for row, text in zip(rows, texts, strict=True)}) > 1:
        said = ", ".join(f"{n} tokens as {text!r}" for n, text in sorted(lengths.items()))
        raise ValueError(f"the templates have prompts of {said}: give templates of one length")
    return torch.cat(rows)
