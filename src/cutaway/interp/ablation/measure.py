"""What an ablation is measured by: the loss, an answer's logit or probability, or any metric."""

from __future__ import annotations

from dataclasses import dataclass

from cutaway.interp import metrics
from cutaway.interp.metrics import Metric
from cutaway.interp.prompts import Prompts, Target
from cutaway.interp.rows import Rows, model_of
from cutaway.interp.sweep import AnyMetric
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

__all__ = ["Measure", "measure_of"]

_NAMES = {
    "Loss": "loss", "LogitDiff": "logit difference", "Logit": "logit", "LogProb": "log-probability", "Prob": "probability",
    "KL": "KL divergence",
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A metric, what it is called, and how answers were taken where not as given."""

    metric: AnyMetric
    name: str
    said: tuple[str, ...] = ()


def measure_of(
    lm: LanguageModel | Transformer, rows: Rows, metric: AnyMetric | None, correct: Target | None, wrong: Target | None
) -> Measure:
    """Return what to measure: `metric`; else the logit difference or the log-probability of answers; else the loss.

    Raises ValueError for a metric beside answers, for a wrong answer alone, and where there is no next token to predict.
    """
    if metric is not None and correct is not None:
        raise ValueError("metric and correct both say what is measured: give one of them")
    if wrong is not None and correct is None:
        raise ValueError("a wrong answer is held against the correct one: give that too")
    if metric is not None:
        return Measure(metric, _name_of(metric))
    config = model_of(lm).config
    if correct is None:
        if not config.is_causal or config.d_vocab_out != config.d_vocab:
            raise ValueError("this model does not predict the next token, so it has no loss here: give an answer, or a metric")
        if min(rows.lengths) < 2:
            raise ValueError("the loss is of predicting a next token and a row has one token: give longer texts, or a metric")
        return Measure(metrics.loss(rows.tokens), "loss")
    prompts = Prompts(lm, rows.tokens, rows.lengths, tuple(length - 1 for length in rows.lengths))
    ids, said = prompts.target_ids(correct)
    answer = prompts.label(ids[0]) if len(set(ids)) == 1 else "the answer"
    if wrong is None:
        return Measure(metrics.log_prob(ids), f"log-probability of {answer}", tuple(said))
    wrong_ids, also_said = prompts.wrong_ids(wrong, ids)
    other = prompts.label(wrong_ids[0]) if len(set(wrong_ids)) == 1 else "the wrong one"
    return Measure(metrics.logit_diff(ids, wrong_ids), f"logit of {answer} less {other}", (*said, *also_said))


def _name_of(metric: AnyMetric) -> str:
    if not isinstance(metric, Metric):
        return getattr(metric, "__name__", "metric")
    name = type(metric).__name__.strip("_")
    return _NAMES.get(name, name)
