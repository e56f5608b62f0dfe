"""What came of an experiment on all its seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.experiments.frame.check import Check, number_or_name
from cutaway.experiments.frame.experiment import Experiment, Outcome
from cutaway.experiments.frame.saved import Finished
from cutaway.interp.result import Result
from cutaway.interp.tensors import finite_or_none
from cutaway.report import filled_table, format_duration, format_number
from cutaway.runtime import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from cutaway.report import HtmlReport

__all__ = ["Reproduction"]

_MANY_SEEDS = 3  # of more, tables show the median and the range


@dataclass(frozen=True, kw_only=True, repr=False)
class Reproduction(Result):
    """The checks, numbers and figures of every seed; it passed when every check passed on each seed."""

    experiment: Experiment[Any]
    settings: Mapping[str, Any]
    finished: Mapping[int, Finished]
    """What each seed came to."""

    @property
    def title(self) -> str:  # type: ignore[override]  # of its experiment
        """What is reproduced."""
        return self.experiment.title

    @property
    def source(self) -> str:  # type: ignore[override]
        """The paper whose result it is."""
        return self.experiment.source

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """What each seed came to, without how it was made."""
        return {seed: each.outcome for seed, each in self.finished.items()}

    @property
    def passed(self) -> bool:
        """Whether every check passed on each seed."""
        return all(outcome.passed for outcome in self.outcomes.values())

    def failures(self) -> Iterator[str]:
        """Yield a sentence for each check that failed: where, and by how much."""
        for seed, outcome in self.outcomes.items():
            for check in outcome.checks:
                if not check.passed:
                    yield (
                        f"{check.name} is {format_number(check.value)}{check.unit} on seed {seed}; expected {check.expected}, "
                        f"missed by {format_number(check.misses_by)}"
                    )

    def summary(self) -> str:
        """Return the claim and whether it stood."""
        n_seeds, n_checks = len(self.finished), len(self._rows())
        seeds = f"{n_seeds} seeds" if n_seeds > 1 else f"seed {next(iter(self.finished))}"
        if self.passed:
            checks = f"All {n_checks} checks" if n_checks > 1 else "The check"
            return f"{self.experiment.claim} {checks} passed on {'each of ' if n_seeds > 1 else ''}{seeds}."
        failures = list(self.failures())
        more = f"; and {len(failures) - 1} more" if len(failures) > 1 else ""
        return f"{self.experiment.claim} This FAILED: {failures[0]}{more}."

    def _rows(self) -> list[list[Check]]:
        """Return for each check its values on all seeds."""
        return [list(row) for row in zip(*(outcome.checks for outcome in self.outcomes.values()), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return every seed's checks and numbers, and the spread of each over seeds."""
        return {
            "experiment": self.experiment.id,
            "claim": self.experiment.claim,
            "passed": self.passed,
            "settings": dict(self.settings),
            "checks": [
                {
                    "name": row[0].name,
                    "expected": row[0].expected,
                    "at_least": row[0].at_least,
                    "at_most": row[0].at_most,
                    "unit": row[0].unit,
                    "null_of": row[0].null_of,
                    "values": finite_or_none([check.value for check in row]),
                    "nulls": finite_or_none([check.null for check in row]),
                    "nearest_null": number_or_name(_nearest_null(row)),
                    "passed": [check.passed for check in row],
                    "null_passes": [check.null_passes for check in row],
                    **_spread([check.value for check in row]),
                }
                for row in self._rows()
            ],
            "numbers": {name: {"values": finite_or_none(values), **_spread(values)} for name, values in self._numbers().items()},
            "seeds": {
                str(seed): {
                    "passed": each.outcome.passed,
                    "time_s": each.time_s,
                    "made_with": dict(each.made_with),
                    "trainings": dict(each.trainings),
                }
                for seed, each in self.finished.items()
            },
        }

    def _numbers(self) -> dict[str, list[float]]:
        names = dict.fromkeys(name for outcome in self.outcomes.values() for name in outcome.numbers)
        return {name: [outcome.numbers.get(name, math.nan) for outcome in self.outcomes.values()] for name in names}

    def figures(self) -> Sequence[Figure]:
        """Return the figures of the first seed."""
        return list(self.experiment.figures(next(iter(self.outcomes.values()))).values())

    def views(self) -> Sequence[RenderableType]:
        """Return the table of checks, and how long it took."""
        header, rows = self.table()
        right = [name for name in header if name.startswith(("seed", "median", "range"))]
        times = ", ".join(
            format_duration(each.time_s) + {"read": " (read, not run)", "measured anew": " (measured anew)"}.get(each.origin, "")
            for each in self.finished.values()
        )
        return [filled_table(header, rows, right=right), f"Time: {times}."]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the checks: what was expected, each seed's value, or their median and range, and the null nearest to the bounds."""
        seeds = list(self.finished)
        is_short = len(seeds) <= _MANY_SEEDS
        columns = [f"seed {seed}" for seed in seeds] if is_short else ["median", "range"]
        return ["", "check", "expected", *columns, "null"], [_row(row, is_short=is_short) for row in self._rows()]

    def add_to(self, page: HtmlReport, *, heading: str | None = None) -> None:
        """Add the claim with its checks, the figures of the first seed with their captions, and the other numbers to a page."""
        said = f"{self.summary()}\n\nSource: {self.source}. Each value stands beside its null: the same number where the claim "
        page.add(self.title if heading is None else heading, text=f"{said}should not hold.", table=self.table())
        seed, outcome = next(iter(self.outcomes.items()))
        of_seed = f" (Seed {seed}.)" if len(self.finished) > 1 else ""
        for name, figure in self.experiment.figures(outcome).items():
            page.add(name, text=self.experiment.captions[name] + of_seed, figure=figure)
        if numbers := self._numbers():
            rows = [[name, *map(format_number, values)] for name, values in numbers.items()]
            page.add("Other numbers", table=(["", *(f"seed {seed}" for seed in self.finished)], rows))

    def write(self, folder: Path, *, command: str = "") -> Path:
        """Write result.json, report.html and the figures of every seed as SVG and PNG; return the page."""
        from cutaway.plots import save_figure

        atomic_write(folder / "result.json", json.dumps(self.record() | {"command": command}, indent=2, allow_nan=False))
        for seed, outcome in self.outcomes.items():
            for name, figure in self.experiment.figures(outcome).items():
                for ending in ("svg", "png"):
                    save_figure(figure, folder / "figures" / f"{name.replace(' ', '-').lower()}-seed-{seed}.{ending}")
        return self.report(folder / "report.html", subtitle=command)


def _row(row: Sequence[Check], *, is_short: bool) -> list[str]:
    check, values = row[0], [each.value for each in row]
    shown = [_written(value, check.unit) for value in values]
    if not is_short:
        shown = [_written(statistics.median(values), check.unit), f"{_written(min(values))} to {_written(max(values))}"]
    mark = "ok" if all(each.passed for each in row) else "FAILED"
    too = ", would pass" if any(each.null_passes for each in row) else ""
    return [mark, check.name, check.expected, *shown, f"{_written(_nearest_null(row), check.unit)} ({check.null_of}{too})"]


def _nearest_null(row: Sequence[Check]) -> float:
    """Return the null, of those of all seeds, that is nearest to keeping the bounds; NaN only where all are."""
    return min(row, key=lambda check: math.inf if math.isnan(check.null_misses_by) else check.null_misses_by).null


def _written(value: float, unit: str = "") -> str:
    return f"{format_number(value)}{unit}"


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if len(finite) < len(values):
        return {"median": None, "least": None, "most": None}
    return {"median": statistics.median(finite), "least": min(finite), "most": max(finite)}
