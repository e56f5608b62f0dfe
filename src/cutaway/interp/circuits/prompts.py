"""Prompt pairs that circuits are found and scored with: as many tokens on both sides, aligned position by position."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cutaway.interp.alignment import align, n_shared
from cutaway.interp.circuits.circuit import Circuit, hash_data, hash_pairs
from cutaway.interp.circuits.stored_prompts import StoredPair, StoredPrompts
from cutaway.interp.json_lines import read_text_columns
from cutaway.interp.metrics import Metric
from cutaway.interp.patching import MetricName, Question, Targets, metric_of, read_question
from cutaway.interp.prompts import read_prompts
from cutaway.language_model import LanguageModel
from cutaway.report.tokens import token_label
from cutaway.runtime import seeded_generator

__all__ = ["PromptPairs", "StoredPart", "read_pairs", "read_pairs_file", "pairs_to_store", "stored_pairs"]

StoredPart = Literal["found_with", "held_out", "all"]
"""The parts of the prompts in a circuit's file."""


@dataclass(frozen=True, eq=False, repr=False)
class PromptPairs:
    """Clean and corrupted prompts, row by row as many tokens, and what is measured after the last one.

    Raises ValueError for `lengths` that are not those of such rows.
    """

    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch pos"]
    """The corrupted prompts."""
    question: Question
    source: str = ""
    """Where they are from: a file, or what made them."""
    lengths: tuple[int, ...] | None = None
    """Each row's tokens, clean and corrupted alike, where the shorter rows are filled up on the right; None where none is."""

    def __post_init__(self) -> None:
        if self.lengths is None:
            return
        n_rows, n_pos = self.tokens.shape
        if len(self.lengths) != n_rows or not all(1 <= each <= n_pos for each in self.lengths):
            raise ValueError(f"lengths are {list(self.lengths)}; expected one for each of the {n_rows} pairs, 1 to {n_pos}")
        width = max(self.lengths, default=n_pos)
        object.__setattr__(self, "tokens", self.tokens[:, :width])
        object.__setattr__(self, "other_tokens", self.other_tokens[:, :width])
        if set(self.lengths) <= {width}:
            object.__setattr__(self, "lengths", None)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        n, least, most = len(self), min(self.lengths or [self.tokens.shape[1]]), self.tokens.shape[1]
        tokens = f"{most}" if least == most else f"{least} to {most}"
        source = f", {self.source}" if self.source else ""
        return f"PromptPairs({n} pair{'s' * (n != 1)} of {tokens} tokens, {self.measured}{source})"

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
    def runs(self) -> dict[str, Any]:
        """What runs are given besides both batches of tokens: rows of different length have no mean but that over positions too."""
        return {"lengths": self.lengths, "over_positions": self.lengths is not None}

    @property
    def clean_ids(self) -> list[list[int]]:
        """The tokens of each clean prompt, without what fills it up."""
        return _ids(self.tokens, self.lengths)

    @property
    def corrupted_ids(self) -> list[list[int]]:
        """The tokens of each corrupted prompt."""
        return _ids(self.other_tokens, self.lengths)

    @property
    def data_hash(self) -> str:
        """The hash of all prompts."""
        return hash_data(self.tokens, self.other_tokens, self.lengths)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The hash of each pair, by which it is known again."""
        return hash_pairs(self.tokens, self.other_tokens, self.lengths)

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
        lengths = None if self.lengths is None else tuple(self.lengths[row] for row in rows)
        return PromptPairs(self.tokens[list(rows)], self.other_tokens[list(rows)], question, self.source, lengths)

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

    Pairs may differ in length: shorter ones are filled up on the right, and the metric reads where each ends. Raises ValueError for
    two prompts of a pair that have different lengths; for pairs of different length in a bidirectional model,
    for pairs without a token in common at any position, and for answers that are not one token.
    """
    if len(clean) != len(corrupted) or not clean:
        raise ValueError(
            f"there are {len(clean)} clean and {len(corrupted)} corrupted prompts: give one corrupted prompt for each clean one"
        )
    rows, others = read_prompts(lm, clean), read_prompts(lm, corrupted)
    for row in range(len(rows)):
        _check_lengths(lm, rows.row(row), others.row(row), row)
        align(lm.tokenizer, rows.row(row), others.row(row))
    question = read_question(lm, correct, wrong, after=rows, metric=metric)
    return PromptPairs(rows.tokens, others.tokens, question, lengths=rows.ragged_lengths)


def read_pairs_file(lm: LanguageModel, path: Path | str, *, metric: MetricName | None = None) -> PromptPairs:
    """Return the pairs of a JSONL file, an object a line: clean, corrupted, correct and perhaps wrong.

    Raises ValueError for a line that is none or has another word, with its number, and as `read_pairs` does; FileNotFoundError for no
    file.
    """
    columns = read_text_columns(path, needed=("clean", "corrupted", "correct"), optional=("wrong",))
    return replace(read_pairs(lm, **columns, metric=metric), source=str(path))


def pairs_to_store(lm: LanguageModel, found_with: PromptPairs, held_out: PromptPairs | None) -> StoredPrompts:
    """Return both parts of prompt pairs as a circuit's file keeps them."""
    question = found_with.question
    parts = [[] if part is None else list(_stored(lm, part)) for part in (found_with, held_out)]
    return StoredPrompts.of(question.name, *parts, source=found_with.source)


def stored_pairs(
    lm: LanguageModel, circuit: Circuit, part: StoredPart | None = None, *, metric: MetricName | None = None
) -> PromptPairs:
    """Return the prompts that a circuit's file keeps: those held out, where there are any, unless a part is named.

    Raises ValueError for a circuit that came without them, saying why, and for a model with other tokens.
    """
    kept = circuit.prompts
    if kept is None or not len(kept):
        why = "it comes from an older version, or was not found with prompts" if kept is None else kept.left_out
        raise ValueError(f"the circuit holds no prompts ({why}): give --prompts FILE, --ioi N or --text, or PromptPairs in Python")
    everything = (*kept.found_with, *kept.held_out)
    rows = everything if part == "all" else getattr(kept, part) if part else kept.held_out or kept.found_with
    if not rows:
        raise ValueError(f"the circuit holds no prompts of the part {part}: it was found with all {len(kept)} of its pairs")

    if (largest := max(max(*pair.clean, *pair.corrupted) for pair in rows)) >= lm.config.d_vocab:
        raise ValueError(
            f"the circuit's prompts have the token {largest}, and this model reads {lm.config.d_vocab}: give prompts of its own"
        )

    def targets(ids: Sequence[int]) -> Targets:
        return Targets(tuple(ids), tuple(lm.text([token]) for token in ids), ())

    correct = targets([pair.correct for pair in rows])
    others = [pair.wrong for pair in rows if pair.wrong is not None]
    wrong = targets(others) if len(others) == len(rows) else None
    name: MetricName = metric or kept.metric  # type: ignore[assignment]  # metric_of refuses another
    question = Question(*_measured(name, correct, wrong), correct, wrong)
    device = lm.model.embed.W_E.device
    clean, corrupted = (
        pad_sequence([torch.tensor(getattr(pair, side)) for pair in rows], batch_first=True).to(device)
        for side in ("clean", "corrupted")
    )
    return PromptPairs(clean, corrupted, question, kept.source, tuple(len(pair.clean) for pair in rows))


def _measured(name: MetricName, correct: Targets, wrong: Targets | None) -> tuple[Metric, MetricName, str]:
    metric, words = metric_of(name, correct, wrong)
    return metric, name, words


def _stored(lm: LanguageModel, pairs: PromptPairs) -> Iterator[StoredPair]:
    wrong = pairs.question.wrong
    for row, (clean, corrupted) in enumerate(zip(pairs.clean_ids, pairs.corrupted_ids, strict=True)):
        answers = pairs.question.correct.ids[row], None if wrong is None else wrong.ids[row]
        yield StoredPair(tuple(clean), tuple(corrupted), *answers, lm.text(clean), lm.text(corrupted))


def _ids(tokens: Int[Tensor, "batch pos"], lengths: Sequence[int] | None) -> list[list[int]]:
    rows: list[list[int]] = tokens.tolist()
    return rows if lengths is None else [row[:n] for row, n in zip(rows, lengths, strict=True)]


def _check_lengths(lm: LanguageModel, one: list[int], other: list[int], row: int) -> None:
    if len(one) == len(other):
        return
    pos = n_shared(one, other)
    texts = [token_label(lm.tokenizer.decode([ids[pos]])) if pos < len(ids) else "nothing" for ids in (one, other)]
    raise ValueError(
        f"pair {row + 1}: the clean prompt has {len(one)} tokens and the corrupted one {len(other)}; they first differ at position "
        f"{pos}, {texts[0]} and {texts[1]}: give a pair of one length, as circuits are run position by position"
    )
