"""The curve of faithfulness over circuit size, its areas, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.circuits.bootstrap import Interval, interval_of, resampled_means
from cutaway.interp.circuits.circuit import Circuit, known_pairs
from cutaway.interp.circuits.faithfulness import Endpoints, Faithfulness
from cutaway.interp.circuits.pruning import Pruning, Ranking
from cutaway.interp.result import Result
from cutaway.interp.tensors import finite_or_none
from cutaway.report import format_fixed, table
from cutaway.runtime import seeded_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["SHARES", "AblationCurve", "FaithfulnessCurve", "area_under", "area_from_one"]

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's sizes, as shares of the graph's edges."""


def area_under(shares: Sequence[float], values: Float[Tensor, "*resample size"]) -> Float[Tensor, "*resample"]:
    """Return CPR, the area under a faithfulness curve from its first share to its last, by trapezoids between the sizes.

    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark", the circuit performance ratio.
    """
    return torch.trapezoid(values, torch.tensor(list(shares), dtype=values.dtype), dim=-1)


def area_from_one(shares: Sequence[float], values: Float[Tensor, "*resample size"]) -> Float[Tensor, "*resample"]:
    """Return CMD, the area between the curve and 1, by trapezoids of `|1 - f|` between the sizes; 0 is best.

    Source: Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark", the circuit-model distance.
    """
    return area_under(shares, (1 - values).abs())


@dataclass(frozen=True, kw_only=True, eq=False)
class AblationCurve(Endpoints):
    """The metric of circuits of rising size under one ablation, row by row."""

    shares: tuple[float, ...]
    circuits: Float[Tensor, "size batch"]
    random: tuple[Float[Tensor, "random batch"] | None, ...]
    """Of random connected circuits beside each size; None where there are none."""
    marked: Float[Tensor, " batch"] | None = None
    """Of a circuit that is no size of the curve; None where there is none."""

    @property
    def normalised(self) -> Float[Tensor, " size"]:
        """`(F(C) - F(empty)) / (F(M) - F(empty))` of each size, ratios of means; NaN where refused."""
        return self.shares_of(self.circuits)

    @property
    def cpr(self) -> float:
        """The area under the curve."""
        return float(area_under(self.shares, self.normalised))

    @property
    def cmd(self) -> float:
        """The area between the curve and 1."""
        return float(area_from_one(self.shares, self.normalised))

    def intervals(self) -> list[Interval] | None:
        """Return the 95 % interval of each size over prompt pairs; None where refused, as `no_interval` says."""
        if self._resampled is None:
            return None
        return [interval_of(each) for each in self._resampled.unbind(1)]

    @property
    def cpr_interval(self) -> Interval | None:
        """The 95 % percentile interval of CPR over prompt pairs; None where refused."""
        return None if self._resampled is None else interval_of(area_under(self.shares, self._resampled))

    @property
    def cmd_interval(self) -> Interval | None:
        """An interval of CMD over prompt pairs that holds the truth in 95 % of cases or more; None where refused.

        Noise moves a curve away from 1 as well as towards it, and either adds to CMD where the truth is near 0, so that percentiles of
        resampled CMDs lie too high. But two curves' CMDs differ by no more than the area between the curves: the interval is CMD more
        or less the 95 % point of the area between resampled curves and this one, and begins at 0 at least.
        """
        if self._resampled is None:
            return None
        between = area_under(self.shares, (self._resampled - self.normalised).abs())
        reach = float(between.quantile(0.95))
        return Interval(max(0.0, self.cmd - reach), self.cmd + reach)

    @property
    def marked_scores(self) -> Faithfulness | None:
        """How faithful the circuit is that is no size of the curve; None where there is none."""
        if self.marked is None:
            return None
        return Faithfulness(**{each.name: getattr(self, each.name) for each in fields(Endpoints)}, circuit=self.marked)

    @cached_property
    def _resampled(self) -> Float[Tensor, "resample size"] | None:
        if self.no_interval:
            return None
        rows = torch.cat([self.circuits - self.empty, (self.model - self.empty)[None]])
        means = resampled_means(rows, n_resamples=self.n_resamples, generator=seeded_generator(self.seed))
        return means[:, :-1] / means[:, -1:]

    def random_shares(self) -> list[list[float]]:
        """Return the same of the random circuits beside each size."""
        return [[] if rows is None else self.shares_of(rows).tolist() for rows in self.random]

    def to_dict(self) -> dict[str, Any]:
        """Return rows, shares, areas and intervals as values that JSON can hold."""
        intervals = self.intervals()
        areas, marked = {"cpr": self.cpr_interval, "cmd": self.cmd_interval}, self.marked_scores
        return {
            "ablation": self.how,
            "replacement": self.said,
            "model": self.model.tolist(),
            "empty": self.empty.tolist(),
            "circuits": self.circuits.tolist(),
            "faithfulness": finite_or_none(self.normalised.tolist()),
            "intervals": None if intervals is None else [list(each) for each in intervals],
            "random": [None if rows is None else rows.tolist() for rows in self.random],
            "random_faithfulness": finite_or_none(self.random_shares()),
            "cpr": finite_or_none(self.cpr),
            "cmd": finite_or_none(self.cmd),
            "area_intervals": {name: None if each is None else list(each) for name, each in areas.items()},
            "circuit": None if marked is None else marked.to_dict(),
            "least_gap": self.least_gap,
            "is_refused": self.refusal is not None,
            "no_interval": self.no_interval,
        }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FaithfulnessCurve(Result):
    """How faithful circuits are as they grow, under one ablation or several."""

    title: ClassVar[str] = "Faithfulness over circuit size"
    source: ClassVar[str] = (
        'faithfulness over the share of edges and its areas CPR and CMD (Mueller et al. 2025, "MIB: A Mechanistic Interpretability '
        'Benchmark")'
    )

    curves: tuple[AblationCurve, ...]
    n_edges: tuple[int, ...]
    """How many edges each circuit keeps."""
    n_dropped: tuple[int, ...]
    """How many were taken and then dropped, as no path has them."""
    n_edges_of_graph: int
    pruning: Pruning
    ranking: Ranking = "size"
    """What edges were ranked by: only CMD is MIB's where it is their size, only CPR where it is their help."""
    measured: str = "metric"
    circuit: Circuit | None = None
    """One that was run beside them, and is marked."""
    n_known_pairs: int = 0
    """How many of the pairs it was found with."""
    notes: tuple[str, ...] = ()

    def of(self, how: str) -> AblationCurve:
        """Return the curve under one ablation; raises KeyError for one that was not run."""
        for each in self.curves:
            if each.how == how:
                return each
        raise KeyError(f"{how} was not run; there are {', '.join(each.how for each in self.curves)}")

    @property
    def area_as_in_mib(self) -> str:
        """The area whose circuits are chosen as MIB does for it: by the size of scores for CMD, by what helps for CPR."""
        return {"size": "cmd", "help": "cpr"}[self.ranking]

    def summary(self) -> str:
        """Return sizes, the rule of the areas, and the areas under each ablation."""
        first = self.curves[0]
        sentences = [
            f"Circuits of {len(first.shares)} sizes, {100 * first.shares[0]:g} to {100 * first.shares[-1]:g} % of "
            f"{self.n_edges_of_graph:,} edges, pruned by {self.pruning}, on {len(first.model)} prompt "
            f"pair{'s' * (len(first.model) > 1)}; measured: "
            f"{self.measured}.",
            "CPR is the area under the faithfulness, CMD that between it and 1, by trapezoids over the shares; edges are ranked by "
            + {"size": "the size of their scores, as MIB does for CMD.", "help": "how much they help, as MIB does for CPR."}[
                self.ranking
            ],
        ]
        for each in self.curves:
            if each.refusal:
                sentences.append(f"Ablation {each.how}: {each.refusal}.")
                continue
            areas = [
                f"{name} {value:.3f}" + (f" ({interval})" if interval else "")
                for name, value, interval in (("CPR", each.cpr, each.cpr_interval), ("CMD", each.cmd, each.cmd_interval))
            ]
            unsure = f"; {each.no_interval}" if each.no_interval else ""
            sentences.append(f"Ablation {each.how}: {', '.join(areas)}{unsure}.")
        sentences += self._circuit_said()
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def _circuit_said(self) -> list[str]:
        """Return sentences on the circuit that is marked; none where there is none."""
        if self.circuit is None:
            return []
        shares = [
            f"{100 * marked.normalised:.1f} % under {each.how} ablation"
            + (f" ({interval})" if (interval := _percents(marked)) else "")
            for each in self.curves
            if (marked := each.marked_scores) is not None and marked.normalised is not None
        ]
        said = f"The circuit itself keeps {self.circuit}"
        said += f"; its faithfulness is {', '.join(shares)}." if shares else "."
        known = f"{known_pairs(self.n_known_pairs)}, so that its point is no held-out one."
        return [said, *([known] if self.n_known_pairs else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return every size and number, rows and means."""
        return {
            "metric": self.measured,
            "pruning": self.pruning,
            "ranking": self.ranking,
            "area_as_in_mib": self.area_as_in_mib,
            "shares": list(self.curves[0].shares),
            "n_edges": list(self.n_edges),
            "n_dropped": list(self.n_dropped),
            "n_edges_of_graph": self.n_edges_of_graph,
            "n_edges_of_circuit": None if self.circuit is None else len(self.circuit),
            "n_known_pairs": self.n_known_pairs,
            "integration": "trapezoids over the shares, from the first to the last",
            "notes": list(self.notes),
            "curves": [each.to_dict() for each in self.curves],
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a row for each size: faithfulness with interval under each ablation, and that of the random circuits."""
        header = ["% of edges", "edges"]
        for each in self.curves:
            header += [f"{each.how} %", f"{each.how} 95 %"] + (
                [f"{each.how} random %"] if any(map(len, each.random_shares())) else []
            )
        return header, [self._row(size) for size in range(len(self.n_edges))]

    def _row(self, size: int) -> list[str]:
        row = [f"{100 * self.curves[0].shares[size]:g}", str(self.n_edges[size])]
        for each in self.curves:
            intervals, random = each.intervals(), each.random_shares()
            row.append(_percent(each.normalised[size]))
            row.append("-" if intervals is None else f"{100 * intervals[size].low:.0f} to {100 * intervals[size].high:.0f}")
            if any(map(len, random)):
                row.append(_percent(sum(random[size]) / len(random[size])) if random[size] else "-")
        return row

    def figures(self) -> list[Figure]:
        """Return the curves with their intervals, and those of the random circuits."""
        from cutaway.plots import bands

        series: dict[str, tuple[Sequence[float], ...]] = {}
        beside: dict[str, tuple[Sequence[float], ...]] = {}
        for each in self.curves:
            if each.refusal:
                continue
            values, intervals = each.normalised.tolist(), each.intervals()
            low, high = zip(*intervals, strict=True) if intervals else (values, values)
            series[each.how] = each.shares, values, low, high
            ranked = [(share, sorted(random)) for share, random in zip(each.shares, each.random_shares(), strict=True) if random]
            if ranked:
                beside[f"{each.how}, random"] = (
                    [share for share, _ in ranked],
                    [random[len(random) // 2] for _, random in ranked],
                    [random[0] for _, random in ranked],
                    [random[-1] for _, random in ranked],
                )
            if self.circuit is not None and len(self.circuit) and (marked := each.marked_scores) is not None:
                share = float(marked.normalised or 0.0)
                ends = marked.interval or (share, share)
                beside[f"{each.how}, the circuit"] = [self.circuit.share], [share], [ends[0]], [ends[1]]
        if not series:
            return []
        labels = {"x_label": "share of the graph's edges", "y_label": "faithfulness"}
        return [bands({**series, **beside}, title="Faithfulness over circuit size", x_is_log=True, marks=(0.0, 1.0), **labels)]

    def views(self) -> list[RenderableType]:
        """Return a table for each ablation."""
        views: list[RenderableType] = []
        for each in self.curves:
            random, intervals, marked, is_shown = each.random_shares(), each.intervals(), each.marked_scores, False
            header = ["% of edges", "edges", "faithful %", "95 %", *(["random %", "lowest", "highest"] if any(random) else [])]
            shown = table(*header, right=header, title=f"{each.how} ablation")
            for size, share in enumerate(each.shares):
                ends = "-" if intervals is None else f"{100 * intervals[size].low:.0f} to {100 * intervals[size].high:.0f}"
                if marked is not None and self.circuit is not None and not is_shown and self.circuit.share <= share:
                    shown.add_row(*self._circuit_row(marked), *([""] * (len(header) - 4)), style="bold")
                    is_shown = True
                row = [f"{100 * share:g}", str(self.n_edges[size]), _percent(each.normalised[size]), ends]
                if any(random):
                    spread = [sum(random[size]) / len(random[size]), min(random[size]), max(random[size])] if random[size] else []
                    row += list(map(_percent, spread)) or ["-"] * 3
                shown.add_row(*row)
            views.append(shown)
        return views

    def _circuit_row(self, marked: Faithfulness) -> list[str]:
        """Return the marked circuit as a row of the table."""
        assert self.circuit is not None
        share = "-" if marked.normalised is None else _percent(marked.normalised)
        return [f"circuit {100 * self.circuit.share:.2g}", str(len(self.circuit)), share, _percents(marked) or "-"]


def _percents(scores: Faithfulness) -> str:
    """Return the interval in percent, and nothing where there is none."""
    interval = scores.interval
    return "" if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f}"


def _percent(share: float | Tensor) -> str:
    return format_fixed(100 * float(share), 1) or "-"
