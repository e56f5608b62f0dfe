"""What is known of one circuit: how faithful, complete and minimal it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.circuits.circuit import Circuit, known_pairs
from cutaway.interp.circuits.faithfulness import Faithfulness, UnitEffect
from cutaway.interp.result import Result
from cutaway.report import format_fixed, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["CircuitScores"]

_N_SHOWN, _N_BARS = 8, 20


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitScores(Result):
    """A circuit beside the model, the empty circuit and random circuits, under one ablation or several."""

    title: ClassVar[str] = "Circuit scores"
    source: ClassVar[str] = (
        'faithfulness, completeness and minimality (Wang et al. 2022, "Interpretability in the Wild", section 4), normalised as in '
        "Marks et al. 2024 and Mueller et al. 2025"
    )

    circuit: Circuit
    faithfulness: tuple[Faithfulness, ...]
    """One for each ablation."""
    measured: str = "metric"
    """The metric in words."""
    units: str | None = "node"
    """What was taken out at a time."""
    n_known_pairs: int = 0
    """How many of the pairs the circuit was found with."""
    notes: tuple[str, ...] = ()

    def of(self, how: str) -> Faithfulness:
        """Return what was found under one ablation; raises KeyError for one that was not run."""
        for each in self.faithfulness:
            if each.how == how:
                return each
        raise KeyError(f"{how} was not run; there are {', '.join(each.how for each in self.faithfulness)}")

    def summary(self) -> str:
        """Return how far the circuit does what the model does, under each ablation."""
        n_rows = len(self.faithfulness[0].circuit)
        kept = f"The circuit keeps {self.circuit}, on {n_rows} prompt pair{'s' * (n_rows > 1)}; measured: {self.measured}."
        parts = "Parts is the largest difference between circuit and model without the same random part of the circuit."
        return " ".join([kept, *self.findings(), *([parts] if any(each.subsets for each in self.faithfulness) else [])])

    def findings(self) -> list[str]:
        """Return a sentence for each ablation, and what is to be known of them."""
        sentences = [self._said(each) for each in self.faithfulness]
        if self.n_known_pairs:
            sentences.append(f"{known_pairs(self.n_known_pairs)}: give others to see whether it holds.")
        unsure = {each.no_interval for each in self.faithfulness if each.no_interval and not each.refusal}
        sentences += [f"{said[0].upper()}{said[1:]}." for said in sorted(unsure)]
        if self.faithfulness[0].random is not None and (n := len(self.circuit.connected())) < len(self.circuit):
            sentences.append(f"{len(self.circuit) - n} of its edges are on no path; random circuits match the other {n}.")
        return [*sentences, *(f"{note.rstrip('.')}." for note in self.notes)]

    def _said(self, each: Faithfulness) -> str:
        means = f"model {each.model.mean():.3g}, circuit {each.circuit.mean():.3g}, empty {each.empty.mean():.3g}"
        ended = f"circuit and model differ by {each.difference:.3g} (|M-C|)"
        if each.normalised is None:
            share = f"{each.refusal}"
        else:
            share = f"faithfulness {100 * each.normalised:.1f} %" + (
                f" ({100 * each.interval.low:.1f} to {100 * each.interval.high:.1f})" if each.interval else ""
            )
        beside = "" if each.random is None else f"; {each.n_random_further} of {len(each.random)} random circuits are further off"
        return f"Ablation {each.how}: {means}; {share}; {ended}{beside}."

    def to_dict(self) -> dict[str, Any]:
        """Return the circuit's edges and every number, rows and means."""
        return {
            "metric": self.measured,
            "n_edges": len(self.circuit),
            "n_edges_of_graph": self.circuit.graph.n_edges,
            "nodes": list(map(str, self.circuit.nodes)),
            "layer_histogram": self.circuit.edges_into,
            "edges": list(map(str, self.circuit.edges)),
            "n_known_pairs": self.n_known_pairs,
            "unit": self.units,
            "notes": list(self.notes),
            "ablations": [each.to_dict() for each in self.faithfulness],
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a row for each ablation."""
        has_random = any(each.random_shares for each in self.faithfulness)
        has_parts = any(each.subsets for each in self.faithfulness)
        header = ["ablation", "model", "circuit", "empty", "share %", "95 %", "|M-C|"]
        header += ["random %"] * has_random + ["parts"] * has_parts
        return header, [self._row(each)[: 7 + has_random] + self._row(each)[8:] * has_parts for each in self.faithfulness]

    def _row(self, each: Faithfulness) -> list[str]:
        share, interval, shares = each.normalised, each.interval, each.random_shares
        return [
            each.how,
            *(f"{float(rows.mean()):.3g}" for rows in (each.model, each.circuit, each.empty)),
            "-" if share is None else f"{100 * share:.1f}",
            "-" if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f}",
            f"{each.difference:.3g}",
            format_fixed(100 * sum(shares) / len(shares), 1) if shares else "-",
            format_fixed(each.incompleteness, 3) or "-",
        ]

    def figures(self) -> list[Figure]:
        """Return the shares of circuit and random circuits, and the units without which most is lost."""
        from cutaway.plots import bars

        figures = []
        for each in self.faithfulness:
            if each.normalised is None:
                continue
            shown = {"model": 1.0, "circuit": each.normalised, "empty circuit": 0.0}
            if each.random_shares:
                ranked = sorted(each.random_shares)
                shown |= {"random: highest": ranked[-1], "random: median": ranked[len(ranked) // 2], "random: lowest": ranked[0]}
            title = f"Faithfulness under {each.how} ablation"
            figures.append(
                bars(
                    [round(share, 4) for share in shown.values()],
                    labels=list(shown),
                    title=title,
                    label="share of model less empty",
                )
            )
        if ranked_units := self.ranked(self.faithfulness[0])[:_N_BARS]:
            figures.append(
                bars(
                    [unit.effect for unit in ranked_units],
                    labels=[unit.unit for unit in ranked_units],
                    title=f"The circuit without one {self.units}",
                    label=f"change of the {self.measured}",
                )
            )
        return figures

    def ranked(self, each: Faithfulness) -> list[UnitEffect]:
        """Return the circuit's units by what is lost without them, the largest change first."""
        return sorted(each.units, key=lambda unit: -abs(unit.effect))

    def views(self) -> list[RenderableType]:
        """Return the table of ablations, and the units that matter most and least."""
        header, rows = self.table()
        shown = table(*header, right=header[1:])
        for row in rows:
            shown.add_row(*row)
        views: list[RenderableType] = [shown]
        first = self.faithfulness[0]
        if ranked := self.ranked(first):
            listed = table(
                self.units or "", "change", right=["change"], title=f"The circuit without one {self.units} ({first.how})"
            )
            for unit in ranked[:_N_SHOWN]:
                listed.add_row(unit.unit, f"{unit.effect:+.3f}")
            if len(ranked) > _N_SHOWN:
                listed.add_row(f"least of {len(ranked)}: {ranked[-1].unit}", f"{ranked[-1].effect:+.3f}")
            views.append(listed)
        return views
