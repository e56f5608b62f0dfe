"""LAMBADA: the last word of a passage, which only the whole of it gives away."""

from __future__ import annotations

from pathlib import Path

from cutaway.evaluation.encoding import joint_ids
from cutaway.evaluation.partial import Progress, score_resumably
from cutaway.evaluation.results import Evaluation, Metric, mean_metric, perplexity_metric
from cutaway.evaluation.rows import Row, read_rows
from cutaway.evaluation.scoring import Request, check_request
from cutaway.language_model import LanguageModel
from cutaway.values import shortened

__all__ = ["lambada"]


def lambada(
    lm: LanguageModel,
    source: str | Path = "lambada",
    *,
    limit: int | None = None,
    partial: Path | None = None,
    report: Progress | None = None,
) -> Evaluation:
    """Return how often every token of a passage's last word is the likeliest, and the perplexity per such word.

    As lm-evaluation-harness 0.4 does in its task lambada_openai: the last word is what follows the last blank, that blank included,
    and the perplexity is the exponential of the mean over passages of the word's negative log-probability. Rows have `text`, or
    `context` and `continuation`. Raises ValueError for a row that lacks a field, does not end with a word or has one too long for the
    model, naming its line.
    """
    rows = read_rows(source, limit=limit)
    words = [_last_word(row) for row in rows]
    requests = []
    for row, (context, word) in zip(rows, words, strict=True):
        with row.naming():
            context_ids, word_ids = joint_ids(lm, context, word)
            requests.append(Request(context_ids, (word_ids,)))
            check_request(requests[-1], lm.config.n_ctx)
    scored = score_resumably(lm, requests, partial=partial, report=report)
    scores = [each.continuations[0] for each in scored]
    nats = mean_metric([-score.log_prob for score in scores])
    metrics: dict[str, Metric] = {
        "acc": mean_metric([float(score.is_greedy) for score in scores], is_share=True),
        "perplexity_per_last_word": perplexity_metric(nats),
        "nats_per_last_word": nats,
    }
    settings = {"source": str(source), "n_rows": len(rows), "n_truncated": sum(each.is_truncated for each in scored)}
    found = [
        {"line": row.line, "word": word, "is_greedy": score.is_greedy, "log_prob": score.log_prob, "n_tokens": score.n_tokens}
        for row, (_, word), score in zip(rows, words, scores, strict=True)
    ]
    return Evaluation("lambada", settings, metrics, found)


def _last_word(row: Row) -> tuple[str, str]:
    """Return what comes before the last word, and the word with the blank before it."""
    text = f"{row.text('context')} {row.text('continuation')}" if row.has("continuation") else row.text("text")
    context, blank, word = text.rpartition(" ")
    if not word.strip():
        raise ValueError(f"{row}: the text is {shortened(text)}; expected one that ends with a word")
    return context, f" {word}" if blank else f" {text}"
