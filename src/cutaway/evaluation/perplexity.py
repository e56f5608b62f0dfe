"""Perplexity of a text, through a window that slides over it: per token, word and byte, each named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from cutaway.evaluation.encoding import text_ids
from cutaway.evaluation.partial import Progress, score_resumably
from cutaway.evaluation.results import Evaluation, Metric, perplexity_metric, ratio_metric
from cutaway.evaluation.scoring import Request
from cutaway.language_model import LanguageModel

__all__ = ["perplexity", "sliding_windows"]


def perplexity(
    lm: LanguageModel,
    text: str | Int[Tensor, " pos"] | Sequence[int],
    *,
    source: str = "text",
    window: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    partial: Path | None = None,
    report: Progress | None = None,
) -> Evaluation:
    """Return the loss on a text, or on its ids: nats and perplexity per token, perplexity per word and per byte, bits per byte.

    The model reads `window` tokens at once, `n_ctx` unless given, and predicts `stride` new ones, half of it unless given: every token
    is predicted once, after at least `window - stride + 1` tokens of its past, or all there are. The text's first token is not
    predicted unless a beginning-of-text token stands before it (`bos`, as in `lm.tokens`), and words (between blanks) and bytes are
    those of what was predicted. Standard errors take windows as independent. The settings name the text by `source` and by the sha256
    of its bytes. Raises ValueError for sizes that do not fit, and a text of fewer than two tokens.
    """
    window = lm.config.n_ctx if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= window <= lm.config.n_ctx:
        raise ValueError(f"the window is {window} tokens; expected 1 to n_ctx {lm.config.n_ctx}")
    if not 1 <= stride <= window:
        raise ValueError(f"the stride is {stride} tokens; expected 1 to the window's {window}")
    ids = text_ids(lm, text, bos=bos)
    content = text.encode() if isinstance(text, str) else lm.tokenizer.decode_bytes(ids)
    requests = sliding_windows(ids, window=window, stride=stride)
    scores = [scored.continuations[0] for scored in score_resumably(lm, requests, partial=partial, report=report)]
    predicted = lm.tokenizer.decode_bytes(ids[1:])
    counts = {"tokens": len(ids) - 1, "words": len(predicted.decode(errors="replace").split()), "bytes": len(predicted)}
    settings = {
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "window": window,
        "stride": stride,
        **{f"n_{unit}": count for unit, count in counts.items()},
    }
    nats = ratio_metric([-score.log_prob for score in scores], [score.n_tokens for score in scores])
    rows = [{"n_tokens": score.n_tokens, "log_prob": score.log_prob} for score in scores]
    return Evaluation("perplexity", settings, _metrics(nats, counts), rows)


def sliding_windows(ids: Sequence[int], *, window: int, stride: int) -> list[Request]:
    """Return what is read and what is predicted, so that every token after the first is predicted once.

    The first window predicts `window` tokens, each next one `stride`, the last what is left, after as much of the past as fits.
    """
    ends = [min(window, len(ids) - 1)]
    while ends[-1] < len(ids) - 1:
        ends.append(min(ends[-1] + stride, len(ids) - 1))
    starts = [0, *ends[:-1]]  # the last token predicted before
    return [
        Request(tuple(ids[max(0, end - window) : start + 1]), (tuple(ids[start + 1 : end + 1]),))
        for start, end in zip(starts, ends, strict=True)
    ]


def _metrics(nats: Metric, counts: dict[str, int]) -> dict[str, Metric]:
    """Return the same loss by every normaliser."""
    per_word, per_byte = (_times(nats, counts["tokens"] / max(counts[unit], 1)) for unit in ("words", "bytes"))
    return {
        "nats_per_token": nats,
        "perplexity_per_token": perplexity_metric(nats),
        "perplexity_per_word": perplexity_metric(per_word),
        "perplexity_per_byte": perplexity_metric(per_byte),
        "bits_per_byte": _times(per_byte, 1 / math.log(2)),
    }


def _times(metric: Metric, factor: float) -> Metric:
    error = metric.standard_error
    return replace(metric, value=factor * metric.value, standard_error=None if error is None else factor * error)
