"""Sentences that name one year and then another, which must come later or earlier: what is left open is two digits.

Greater-than of Hanna et al. 2023, and its mirror image: where both are told, no year is likelier than another before the first is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.experiments.sentence_templates import Prompts, filled, template_rows, template_words
from cutaway.interp.metrics import Metric
from cutaway.model.norms import at_least_float32
from cutaway.tokenizers import WordTokenizer

__all__ = ["N_YEARS", "NOUNS", "SpanPrompts", "YearSpans", "span_words"]

N_YEARS = 100
"""The two digits of a year within its century; the tokens 0 to 99 are these, "00" to "99"."""
NOUNS = (
    "war", "siege", "reign", "voyage", "drought", "trial", "strike", "plague", "famine", "dispute", "revolt", "trade", "truce", "peace",
    "feud", "journey", "campaign", "search", "study", "building", "winter", "flood", "exile", "contract",
)  # fmt: skip
_LATER = (
    "The NOUN lasted from the year CENTURY YEAR to the year CENTURY",
    "The NOUN began in CENTURY YEAR and did not end before CENTURY",
    "In year CENTURY YEAR the NOUN began that then ended in CENTURY",
)
_EARLIER = (
    "The NOUN ended in CENTURY YEAR and had been there since CENTURY",
    "In year CENTURY YEAR the NOUN ended that had begun in CENTURY",
)
_SLOTS = {"NOUN": -1, "CENTURY": -2, "YEAR": -3}
_CENTURIES = 11, 19  # up to, not with, 19
_NO_YEARS = 1, N_YEARS - 2
"""Of the prompts that say nearly nothing: almost every year is later than 01, and earlier than 98."""


def span_words() -> WordTokenizer:
    """Return the tokenizer of these sentences: years first, then nouns and the other words."""
    years = (f"{year:02d}" for year in range(N_YEARS))
    return WordTokenizer([*years, *NOUNS, *template_words((*_LATER, *_EARLIER), _SLOTS)])


@dataclass(frozen=True, eq=False)
class SpanPrompts(Prompts):
    """Sentences up to the second year, each beside the same with a first year that leaves nearly all open.

    That is 01 where a later year comes, 98 where an earlier one does.
    """

    retold_tokens: Int[Tensor, "batch pos"]
    """With another noun and another century, which say nothing about the second year."""
    years: Int[Tensor, " batch"]
    """The first year's two digits."""
    is_later: Bool[Tensor, " batch"]
    """Whether a later year comes."""

    @property
    def is_right(self) -> Bool[Tensor, "batch year"]:
        """Which years may come."""
        years, first = torch.arange(N_YEARS), self.years[:, None]
        return torch.where(self.is_later[:, None], years > first, years < first)

    @property
    def metric(self) -> Metric:
        """The probability of all right years less that of all others (Hanna et al. 2023)."""
        return _ProbabilityDifference(self.is_right)


@dataclass(frozen=True, eq=False)
class YearSpans:
    """Where such sentences come from: some nouns never come with some years.

    What comes next hangs on the year and not on the noun, so that what is held out tells whether the noun misleads, and no more: every
    first year is read with other nouns, and a table of years foretells as well as knowing their order.
    """

    held_out: Bool[Tensor, "noun year"]

    @classmethod
    def drawn(cls, p_held_out: float, *, generator: torch.Generator) -> YearSpans:
        """Hold so many of all combinations of noun and year out, at random."""
        return cls(torch.rand(len(NOUNS), N_YEARS, generator=generator) < p_held_out)

    def sentences(self, batch_size: int, *, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Return whole sentences to learn from, half of them about a later year; each right year is as likely."""
        prompts = self.prompts(batch_size, is_held_out=False, generator=generator)
        return torch.cat([prompts.tokens, torch.multinomial(prompts.is_right.float(), 1, generator=generator)], dim=1)

    def prompts(self, n_prompts: int, *, is_held_out: bool = True, generator: torch.Generator) -> SpanPrompts:
        """Return prompts of combinations held out, or of the others, a later and an earlier year in turn."""
        of_kind = self.held_out == is_held_out
        of_kind[:, [0, N_YEARS - 1]] = False  # nothing is earlier than the one, or later than the other
        pairs = of_kind.nonzero()
        nouns, years = pairs[torch.randint(len(pairs), (n_prompts,), generator=generator)].unbind(1)
        is_later = torch.arange(n_prompts) % 2 == 0
        kinds = (template_rows(templates, _SLOTS, span_words()) for templates in (_LATER, _EARLIER))
        later, earlier = (rows[torch.randint(len(rows), (n_prompts,), generator=generator)] for rows in kinds)
        rows = torch.where(is_later[:, None], later, earlier)
        centuries, other_centuries = torch.randint(*_CENTURIES, (2, n_prompts), generator=generator)
        other_nouns = torch.randint(len(NOUNS), (n_prompts,), generator=generator)
        told = {"NOUN": N_YEARS + nouns, "CENTURY": centuries, "YEAR": years}
        no_year = torch.where(is_later, *_NO_YEARS)
        retold = {"NOUN": N_YEARS + other_nouns, "CENTURY": other_centuries}
        clean, other, anew = (filled(rows, _SLOTS, told | changed) for changed in ({}, {"YEAR": no_year}, retold))
        return SpanPrompts(clean, other, anew, years, is_later)


class _ProbabilityDifference(Metric):
    pos = -1

    def __init__(self, is_right: Bool[Tensor, "batch year"]) -> None:
        self.is_right = is_right

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        probs = at_least_float32(logits)[:, 0].softmax(-1)[:, :N_YEARS]
        return (probs * (2 * self.is_right[row].to(probs) - 1)).sum(-1)
