"""Answers as a patching experiment reads them, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp import metrics
from cutaway.interp.metrics import Metric
from cutaway.interp.prompts import Prompts, Target
from cutaway.language_model import LanguageModel
from cutaway.report.tokens import token_label

__all__ = [
    "MetricName",
    "Targets",
    "Question",
    "read_targets",
    "read_question",
    "metric_of",
    "check_gap",
]

MetricName = Literal["logit_diff", "prob", "log_prob"]


@dataclass(frozen=True)
class Targets:
    """One token a row."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    notes: tuple[str, ...]
    """What a user is told where a text was not taken as it was given."""

    def __str__(self) -> str:
        return token_label(self.texts[0]) if len(set(self.texts)) == 1 else "each row's own"


@dataclass(frozen=True, eq=False)
class Question:
    """What is measured of a run."""

    metric: Metric
    name: MetricName
    words: str
    """The metric in words."""
    correct: Targets
    wrong: Targets | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user is told about the answers."""
        return (*self.correct.notes, *(self.wrong.notes if self.wrong else ()))


def read_targets(lm: LanguageModel, given: Target, *, after: Prompts) -> Targets:
    """Return the answer's token of every row, given as text or id, for all rows or for each.

    After a prompt that ends in a word `Paris` is taken as ` Paris`. Raises ValueError for what is not one token, or not one for each
    row.
    """
    ids, notes = after.target_ids(given)
    if wrong := [token for token in ids if not 0 <= token < lm.config.d_vocab_out]:
        raise ValueError(f"the answer is token {wrong[0]}; the model has logits for 0 to {lm.config.d_vocab_out - 1}")
    return Targets(tuple(ids), tuple(lm.text([token]) for token in ids), tuple(notes))


def read_question(
    lm: LanguageModel,
    correct: Target,
    wrong: Target | None,
    *,
    after: Prompts,
    metric: MetricName | None,
) -> Question:
    """Return what is measured after each prompt: `logit_diff` where a wrong answer is given, else `log_prob`, unless it is named.

    Raises ValueError as `read_targets` and `metric_of` do.
    """
    answers, others = read_targets(lm, correct, after=after), None if wrong is None else read_targets(lm, wrong, after=after)
    name: MetricName = metric or ("log_prob" if wrong is None else "logit_diff")
    measured, words = metric_of(name, answers, others)
    return Question(measured, name, words, answers, others)


def metric_of(name: MetricName, correct: Targets, wrong: Targets | None) -> tuple[Metric, str]:
    """Return a metric by its name, read after each prompt's last token, and what it is in words.

    Raises ValueError for a logit difference without a wrong answer, or with one that is the answer itself.
    """
    if name not in ("logit_diff", "prob", "log_prob"):
        raise ValueError(f"metric is {name!r}; expected logit_diff, prob or log_prob")
    ids = torch.tensor(correct.ids, dtype=torch.long)
    if name != "logit_diff":
        make, words = {"prob": (metrics.prob, "probability"), "log_prob": (metrics.log_prob, "log-probability")}[name]
        return make(ids), f"{words} of {correct}"
    if wrong is None:
        raise ValueError("logit_diff is the answer's logit less a wrong one's: give a wrong answer, or the metric prob or log_prob")
    if any(a == b for a, b in zip(correct.ids, wrong.ids, strict=True)):
        raise ValueError(f"the answer and the wrong answer are one token ({correct}): give another wrong answer")
    return metrics.logit_diff(ids, torch.tensor(wrong.ids, dtype=torch.long)), f"logit difference {correct} - {wrong}"


def check_gap(
    base: Float[Tensor, "..."], other: Float[Tensor, "..."], logits: Float[Tensor, "..."], words: str, *, is_prob: bool
) -> None:
    """Raise ValueError where two runs give the same metric, averaged, up to what rounding makes of these logits."""
    gap = float((other.mean() - base.mean()).abs())
    scale = float(torch.maximum(base.abs().max(), other.abs().max()) if is_prob else logits.abs().max())
    if not gap > 32 * torch.finfo(base.dtype).eps * scale:
        raise ValueError(
            f"both runs give the same {words}, {float(other.mean()):.4g}, so that there is nothing to recover: give a corrupted prompt "
            "that changes it, or another answer"
        )
