"""What an evaluation found: numbers with their standard errors, how they were measured, and what each row gave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        """Return the number and its standard error as text, with `between` between them."""
        scale, unit = (100, " %") if self.is_share else (1, "")
        value = f"{scale * self.value:.2f}" if self.is_share else _digits(self.value, 4)
        error = "" if self.standard_error is None else f"{between}± {_digits(scale * self.standard_error, 2)}"
        return f"{value}{error}{unit}"


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
        settings = ", ".join(f"{name} {_shown(name, value)}" for name, value in self.settings.items())
        return "\n".join([f"{self.task} ({settings})", *(f"  {name}: {metric}" for name, metric in self.metrics.items())])


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


def results_table(results: Mapping[str, Evaluation]) -> Group:
    """Return a table of several models side by side, a line each; what differs in how they were measured is said below it.

    Raises ValueError for results of different tasks.
    """
    from rich.console import Group
    from rich.text import Text

    from cutaway.report import table

    tasks = {result.task for result in results.values()}
    if len(tasks) != 1:
        raise ValueError(f"the results are of {' and '.join(sorted(tasks)) or 'no task'}; a table shows one task")
    metrics = list(dict.fromkeys(name for result in results.values() for name in result.metrics))
    headers = [name.replace("_", " ") for name in metrics]
    grid = table("model", *headers, right=headers)
    between = " " if len(metrics) <= _BESIDE else "\n"
    for model, result in results.items():
        grid.add_row(model, *(result.metrics[name].shown(between) if name in result.metrics else "-" for name in metrics))
    differing = {model: _differing(result, results) for model, result in results.items()}
    below = [Text(f"{model}: {', '.join(said)}", style="dim") for model, said in differing.items() if said]
    return Group(Text(_title(results, tasks.pop()), style="bold"), grid, *below)


def _digits(value: float, n_digits: int) -> str:
    """Return a number with so many digits that count, written out where that is not long."""
    return f"{float(f'{value:.{n_digits}g}'):,.0f}" if 10**n_digits <= value < 1e6 else f"{value:.{n_digits}g}"


def _title(results: Mapping[str, Evaluation], task: str) -> str:
    shared = [said for said in _said(next(iter(results.values()))) if all(said in _said(result) for result in results.values())]
    return f"{task}: {', '.join(shared)}" if shared else task


def _differing(result: Evaluation, results: Mapping[str, Evaluation]) -> list[str]:
    return [said for said in _said(result) if not all(said in _said(other) for other in results.values())]


def _said(result: Evaluation) -> list[str]:
    return [f"{name.replace('_', ' ')} {_shown(name, value)}" for name, value in result.settings.items()]


def _shown(name: str, value: object) -> str:
    """Write a setting; of a hash its first 12 digits tell texts apart."""
    return str(value)[:12] if name == "sha256" else str(value)
