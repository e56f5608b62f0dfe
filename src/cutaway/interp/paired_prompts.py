"""Two prompts, or two lists of them, and the answer that the first is to have: what tools for two runs are asked in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.interp.alignment import Alignment
from cutaway.interp.patching import MetricName, Question, align_prompts, check_gap, read_question
from cutaway.interp.prompts import Prompts, Target, read_prompts
from cutaway.interp.rows import Texts
from cutaway.language_model import LanguageModel
from cutaway.views import without_dropout

__all__ = ["PairedPrompts", "read_paired"]


@dataclass(frozen=True, eq=False)
class PairedPrompts:
    """A clean and a corrupted prompt a row, aligned, with a metric of the answer."""

    clean: Prompts
    corrupted: Prompts
    alignments: tuple[Alignment, ...]
    question: Question

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told of how answers were taken, and of positions without a partner."""
        return (*self.question.notes, *dict.fromkeys(said for each in self.alignments if (said := each.sentence())))

    @property
    def runs(self) -> dict[str, Any]:
        """What the two runs are given besides their tokens: which positions of the corrupted one belong to which of the clean one."""
        return {
            "pairs": [[(there, here) for here, there in each.pairs] for each in self.alignments],
            "lengths": self.clean.ragged_lengths,
            "other_lengths": self.corrupted.ragged_lengths,
        }


def read_paired(
    lm: LanguageModel,
    clean: Texts,
    corrupted: Texts,
    correct: Target,
    wrong: Target | None,
    metric: MetricName | None,
    pairs: Sequence[tuple[int, int]] | None,
) -> PairedPrompts:
    """Return prompts and answers as two runs take them; the metric is `logit_diff` where a wrong answer is given, else `log_prob`.

    Raises ValueError for prompts that do not align, for an answer that is not one token, and where both runs give the same metric.
    """
    rows = read_prompts(lm, clean), read_prompts(lm, corrupted)
    alignments = align_prompts(lm, *rows, pairs)
    question = read_question(lm, correct, wrong, after=rows[0], metric=metric)
    model = without_dropout(lm.model)
    with torch.no_grad():
        logits, other_logits = (model(each.tokens) for each in rows)
        base, other = question.metric(logits, rows[0].lengths), question.metric(other_logits, rows[1].lengths)
    check_gap(base, other, logits, question.words, is_prob=question.name == "prob")
    return PairedPrompts(*rows, tuple(alignments), question)
