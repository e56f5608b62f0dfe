"""What an evaluation found: numbers with their standard errors, how they were measured, and what each row gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich is imported where a table is made
    from rich.console import Group

__all__ = ["Metric", "Evaluation", "mean_metric", "perplexity_metric", "ratio_metric", "results_table"]


_BESIDE = 3
"""Metrics whose standard errors have room beside them in 80 columns; of more they stand below."""


@dataclass(frozen=True)
class Metric:
    """A number and its standard error, None where there is but one observation."""

    value: float
    standard_error: float | None = None
    is_share: bool = False
    """Whether it is a part of one, shown in percent."""

    def __str__(self) -> str:
        return self.shown(" ")

    def shown(self, between: str) -> str:
        """Return the number and, after `between`, its standard error; one of 0, where all rows agree, says nothing."""
        value = _percent(self.value) if self.is_share else _digits(self.value, 4)
        error = ""
        if self.standard_error:
            error = f"{between}± {_percent(self.standard_error) if self.is_share else _digits(self.standard_error, 2)}"
        return f"{value}{error}{' %' if self.is_share else ''}"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model: `task` and `settings` say what was measured and how, `rows` what each row gave."""

    task: str
    settings: dict[str, Any]
    metrics: dict[str, Metric]
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([_title(self.task, _said(self)), *(f"  {name}: {metric}" for name, metric in self.metrics.items())])


def mean_metric(values: Sequence[float], *, is_share: bool = False) -> Metric:
    """Return the mean of independent observations with its standard error, s / sqrt(n), s with n - 1 in its denominator."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Metric(mean, None, is_share)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Metric(mean, math.sqrt(variance / n), is_share)


def perplexity_metric(nats: Metric) -> Metric:
    """Return e^x of a mean x; its standard error is the mean's times the slope there (the delta method)."""
    try:
        value = math.exp(nats.value)
    except OverflowError:
        value = math.inf
    return Metric(value, None if nats.standard_error is None else value * nats.standard_error)


def ratio_metric(totals: Sequence[float], counts: Sequence[float]) -> Metric:
    """Return sum(totals) / sum(counts) over blocks, with the standard error of a ratio of two sums (Cochran 1977, section 6.3)."""
    n, n_all = len(totals), math.fsum(counts)
    ratio = math.fsum(totals) / n_all
    if n == 1:
        return Metric(ratio)
    squares = math.fsum((total - ratio * count) ** 2 for total, count in zip(totals, counts, strict=True))
    return Metric(ratio, math.sqrt(squares * n / (n - 1)) / n_all)


def results_table(results: Mapping[str, Evaluation | None]) -> Group:
    """Return a table of several models side by side, a line each, None being one that could not be read.

    What was measured, and how, is a sentence above it; what differs in that is said below it. Raises ValueError for results of
    different tasks.
    """
    from rich.console import Group
    from rich.text import Text

    from cutaway.report import table

    found = {model: result for model, result in results.items() if result is not None}
    tasks = {result.task for result in found.values()}
    if len(tasks) != 1:
        raise ValueError(f"the results are of {' and '.join(sorted(tasks)) or 'no task'}; a table shows one task")
    metrics = list(dict.fromkeys(name for result in found.values() for name in result.metrics))
    headers = [name.replace("_", " ") for name in metrics]
    grid = table("model", *headers, right=headers)
    between = " " if len(metrics) <= _BESIDE else "\n"
    for model, result in results.items():
        if result is None:
            grid.add_row(model, "unreadable", *("-" for _ in metrics[1:]))
        else:
            grid.add_row(model, *(result.metrics[name].shown(between) if name in result.metrics else "-" for name in metrics))
    said = {model: _said(result) for model, result in found.items()}
    shared = [phrase for phrase in next(iter(said.values())) if all(phrase in phrases for phrases in said.values())]
    differing = {model: [phrase for phrase in phrases if phrase not in shared] for model, phrases in said.items()}
    below = [Text(f"{model}: {', '.join(phrases)}", style="dim") for model, phrases in differing.items() if phrases]
    return Group(Text(_title(tasks.pop(), shared), style="bold"), grid, *below)


_NAMES = {"perplexity": "Perplexity", "hellaswag": "HellaSwag", "lambada": "LAMBADA"}

_PHRASES: dict[str, Callable[[Any], str]] = {
    "protocol": "by the {} protocol".format,
    "source": "on {}".format,
    "sha256": "sha256 {:.12}".format,  # enough to tell texts apart
    "n_rows": "{:,} rows".format,
    "n_truncated": lambda n_rows: f"{n_rows:,} of them cut on the left to fit the context" if n_rows else "",
    "n_tokens": "{:,} tokens".format,
    "n_words": "{:,} words".format,
    "n_bytes": "{:,} bytes".format,
    "window": "read in windows of {:,}".format,
    "stride": "{:,} new in each".format,
}
"""What settings say, in the order in which they are said."""


def _title(task: str, phrases: Sequence[str]) -> str:
    return ", ".join([_NAMES.get(task, task), *phrases])


def _said(result: Evaluation) -> list[str]:
    """Return the settings in words; one that has none here is given as it is."""
    known = [phrase(result.settings[name]) for name, phrase in _PHRASES.items() if name in result.settings]
    others = [f"{name.replace('_', ' ')} {value}" for name, value in result.settings.items() if name not in _PHRASES]
    return [phrase for phrase in (*known, *others) if phrase]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _digits(value: float, n_digits: int) -> str:
    """Return a number with so many digits that count, written out where that is not long."""
    if 10**n_digits <= value < 1e6:
        return f"{float(f'{value:.{n_digits}g}'):,.0f}"
    return f"{value:#.{n_digits}g}".rstrip(".")
