"""Prompt pairs that circuits are found and scored with: as many tokens each, aligned position by position."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp.alignment import Alignment, align
from cutaway.interp.circuits.circuit import hash_pairs, hash_tokens
from cutaway.interp.json_lines import read_text_columns
from cutaway.interp.metrics import Metric
from cutaway.interp.patching import MetricName, Question, Targets, metric_of, read_question
from cutaway.interp.prompts import read_prompts
from cutaway.language_model import LanguageModel
from cutaway.runtime import seeded_generator

__all__ = ["PromptPairs", "read_pairs", "read_pairs_file"]


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean and corrupted prompts of one length, row by row, and what is measured after the last token."""

    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch pos"]
    """The corrupted prompts."""
    question: Question

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def metric(self) -> Metric:
        """What is measured of a run."""
        return self.question.metric

    @property
    def measured(self) -> str:
        """The metric in words."""
        if len(set(self.question.correct.ids)) == 1:
            return self.question.words
        names = {"logit_diff": "logit difference", "prob": "probability", "log_prob": "log-probability"}
        return f"{names[self.question.name]} of each pair's own answers"

    @property
    def data_hash(self) -> str:
        """The hash of both batches of tokens."""
        return hash_tokens(self.tokens, self.other_tokens)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The hash of each pair, by which it is known again."""
        return hash_pairs(self.tokens, self.other_tokens)

    def rows(self, rows: Sequence[int]) -> PromptPairs:
        """Return some of the pairs."""

        def of(targets: Targets | None) -> Targets | None:
            if targets is None:
                return None
            return Targets(tuple(targets.ids[row] for row in rows), tuple(targets.texts[row] for row in rows), targets.notes)

        correct, wrong = of(self.question.correct), of(self.question.wrong)
        assert correct is not None
        metric, words = metric_of(self.question.name, correct, wrong)
        question = Question(metric, self.question.name, words, correct, wrong)
        return PromptPairs(self.tokens[list(rows)], self.other_tokens[list(rows)], question)

    def split(self, share: float = 0.5, *, seed: int = 0) -> tuple[PromptPairs, PromptPairs]:
        """Return a random part of the pairs to find a circuit with, and the others to score it on.

        Pairs that are the same, by `hashes`, go together, and `share` is one of different pairs. Raises ValueError for one alone.
        """
        different = list(dict.fromkeys(self.hashes))
        n, n_first = len(different), round(share * len(different))
        if not 0 < n_first < n:
            raise ValueError(
                f"{n} {'different ' * (n < len(self))}pair{'s' * (n > 1)} cannot be split into {share:g} and the rest: give more, so "
                "that each part has one"
            )
        first = {different[i] for i in torch.randperm(n, generator=seeded_generator(seed)).tolist()[:n_first]}
        parts = ([row for row, each in enumerate(self.hashes) if (each in first) is is_first] for is_first in (True, False))
        finding, others = map(self.rows, parts)
        return finding, others

    def without(self, known: Collection[str]) -> PromptPairs:
        """Return the pairs whose hash is not among those known, as `Circuit.pair_hashes` are; perhaps none."""
        return self.rows([row for row, each in enumerate(self.hashes) if each not in known])


def read_pairs(
    lm: LanguageModel,
    clean: Sequence[str],
    corrupted: Sequence[str],
    correct: Sequence[str],
    wrong: Sequence[str] | None = None,
    *,
    metric: MetricName | None = None,
) -> PromptPairs:
    """Return prompt pairs as runs take them; the metric is `logit_diff` where wrong answers are given, else `log_prob`.

    Raises ValueError, with both lists of tokens, for a pair or two prompts of different length; for pairs without a token in common at
    any position, and for answers that are not one token.
    """
    if len(clean) != len(corrupted) or not clean:
        raise ValueError(
            f"there are {len(clean)} clean and {len(corrupted)} corrupted prompts: give one corrupted prompt for each clean one"
        )
    rows, others = read_prompts(lm, clean), read_prompts(lm, corrupted)
    for row in range(len(rows)):
        _check_lengths(lm, "the clean and the corrupted prompt", rows.row(row), others.row(row), row)
        _check_lengths(lm, "the first prompt and this one", rows.row(0), rows.row(row), row)
        align(lm.tokenizer, rows.row(row), others.row(row))
    question = read_question(lm, correct, wrong, after=rows, metric=metric)
    return PromptPairs(rows.tokens, others.tokens, question)


def read_pairs_file(lm: LanguageModel, path: Path | str, *, metric: MetricName | None = None) -> PromptPairs:
    """Return the pairs of a JSONL file, an object a line: clean, corrupted, correct and perhaps wrong.

    Raises ValueError for a line that is none or has another word, with its number, and as `read_pairs` does; FileNotFoundError for no
    file.
    """
    columns = read_text_columns(path, needed=("clean", "corrupted", "correct"), optional=("wrong",))
    return read_pairs(lm, **columns, metric=metric)


def _check_lengths(lm: LanguageModel, which: str, one: list[int], other: list[int], row: int) -> None:
    if len(one) == len(other):
        return
    texts = [tuple(lm.tokenizer.decode([token]) for token in ids) for ids in (one, other)]
    raise ValueError(
        f"pair {row + 1}: {which} have {len(one)} and {len(other)} tokens, and circuits are run position by position: give prompts of "
        f"one length\n{Alignment(texts[0], texts[1], ()).side_by_side()}"
    )
