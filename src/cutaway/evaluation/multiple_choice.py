"""Multiple choice: which of several endings a model finds likeliest, as HellaSwag asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.evaluation.encoding import joint_ids, separate_ids
from cutaway.evaluation.partial import Progress, score_resumably
from cutaway.evaluation.results import Evaluation, mean_metric
from cutaway.evaluation.rows import Row, read_rows
from cutaway.evaluation.scoring import Request, Score, Scores, check_request
from cutaway.language_model import LanguageModel
from cutaway.runtime import did_you_mean

__all__ = ["Item", "Protocol", "PROTOCOLS", "multiple_choice", "likeliest"]

_BRACKETED = re.compile(r"\[.*?\]")


@dataclass(frozen=True)
class Item:
    """A question: a context, its endings, and which of them is right."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Protocol:
    """How a row becomes tokens, and what an ending's log-probability is divided by to compare endings of different lengths."""

    name: str
    item: Callable[[Row], Item]
    ids: Callable[[LanguageModel, str, str], tuple[tuple[int, ...], tuple[int, ...]]]
    length: Callable[[str, Score], int]

    def request(self, lm: LanguageModel, item: Item) -> Request:
        """Return the token ids of an item, a blank before each ending."""
        pairs = [self.ids(lm, item.context, f" {ending}") for ending in item.endings]
        return Request(pairs[0][0], tuple(continuation for _, continuation in pairs))


def multiple_choice(
    lm: LanguageModel,
    source: str | Path = "hellaswag",
    *,
    protocol: str = "lm-eval",
    limit: int | None = None,
    partial: Path | None = None,
    report: Progress | None = None,
) -> Evaluation:
    """Return how often the right ending of a row is the likeliest, by HellaSwag or a JSONL file of its format.

    `acc` compares sums of log-probabilities; `acc_norm` divides them by the ending's length: in characters by the protocol "lm-eval"
    (lm-evaluation-harness 0.4, task hellaswag), in tokens by "completion" (the raw context and ending, as GPT-2's reproductions
    report it). Of equal endings the first counts. Each row of the result holds its predictions. Raises ValueError for a row that lacks
    a field or has another type in it, naming its line.
    """
    if protocol not in PROTOCOLS:
        meant = did_you_mean(protocol, PROTOCOLS)
        raise ValueError(f"there is no protocol {protocol!r}; {meant}there are {', '.join(PROTOCOLS)}")
    rule = PROTOCOLS[protocol]
    rows = read_rows(source, limit=limit)
    items = [rule.item(row) for row in rows]
    requests = []
    for row, item in zip(rows, items, strict=True):
        with row.naming():
            requests.append(rule.request(lm, item))
            check_request(requests[-1], lm.config.n_ctx)
    scored = score_resumably(lm, requests, partial=partial, report=report)
    found = [_result(rule, *each) for each in zip(rows, items, scored, strict=True)]
    settings = {"protocol": protocol, "source": str(source), "n_rows": len(rows)}
    settings["n_truncated"] = sum(scores.is_truncated for scores in scored)
    metrics = {
        name: mean_metric([float(result[name] == result["label"]) for result in found], is_share=True)
        for name in ("acc", "acc_norm")
    }
    return Evaluation("hellaswag", settings, metrics, found)


def likeliest(values: Sequence[float]) -> int:
    """Return the place of the largest value; of equal ones the first."""
    return max(range(len(values)), key=values.__getitem__)


def _result(rule: Protocol, row: Row, item: Item, scores: Scores) -> dict[str, Any]:
    """Return a row's predictions and what they rest on."""
    log_probs = [score.log_prob for score in scores.continuations]
    lengths = [rule.length(*each) for each in zip(item.endings, scores.continuations, strict=True)]
    per_length = [_divided(*each) for each in zip(log_probs, lengths, strict=True)]
    return {
        "line": row.line,
        "label": item.label,
        "acc": likeliest(log_probs),
        "acc_norm": likeliest(per_length),
        "log_probs": log_probs,
        "lengths": lengths,
    }


def _divided(log_prob: float, length: int) -> float:
    return log_prob / length if length else -float("inf")


def _harness_item(row: Row) -> Item:
    """Read a row as lm-evaluation-harness prepares HellaSwag: label, first sentence, the second with a capital, clean of markup."""
    context = f"{row.text('activity_label')}: {row.text('ctx_a')} {row.text('ctx_b').capitalize()}"
    return _item(row, _without_markup(context), tuple(map(_without_markup, row.texts("endings"))))


def _raw_item(row: Row) -> Item:
    return _item(row, row.text("ctx"), row.texts("endings"))


def _item(row: Row, context: str, endings: tuple[str, ...]) -> Item:
    return Item(context, endings, row.choice("label", len(endings)))


def _without_markup(text: str) -> str:
    """Take out what is left of WikiHow's layout: titles become sentences, other bracketed words go."""
    return _BRACKETED.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _n_characters(ending: str, score: Score) -> int:  # noqa: ARG001
    return len(ending)


def _n_tokens(ending: str, score: Score) -> int:  # noqa: ARG001
    return score.n_tokens


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("lm-eval", _harness_item, joint_ids, _n_characters),
        Protocol("completion", _raw_item, separate_ids, _n_tokens),
    )
}
"""Both ways that HellaSwag is measured, by name; their results differ by a point or two and are not to be compared."""
