"""A circuit made smaller on some prompt pairs, and held against what it was on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.ablation import How
from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.circuit_scores import CircuitScores
from cutaway.interp.circuits.drawing import CircuitDrawing
from cutaway.interp.circuits.evaluation import evaluate_circuit
from cutaway.interp.circuits.faithfulness import LEAST_GAP, Faithfulness
from cutaway.interp.circuits.graph import Edge
from cutaway.interp.circuits.minimising import minimise
from cutaway.interp.circuits.prompts import PromptPairs
from cutaway.interp.result import Result
from cutaway.language_model import LanguageModel
from cutaway.report import filled_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["MinimisedCircuit", "minimise_on_prompts"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MinimisedCircuit(Result):
    """A circuit before and after the edges that it can do without were taken out."""

    title: ClassVar[str] = "Circuit minimised"
    source: ClassVar[str] = 'minimality of circuits (Wang et al. 2022, "Interpretability in the Wild", section 4)'

    before: CircuitScores
    after: CircuitScores
    tolerance: float
    """The share of the gap between model and empty circuit by which the metric may move on the pairs that were searched."""
    n_searched: int
    """How many pairs said which edges are needed."""
    is_held_out: bool
    """Whether the scores are of pairs that neither the circuit was found with nor this search saw."""
    notes: tuple[str, ...] = ()

    @property
    def circuit(self) -> Circuit:
        """The smaller circuit."""
        return self.after.circuit

    @property
    def removed(self) -> tuple[Edge, ...]:
        """The edges that were taken out."""
        return (self.before.circuit - self.circuit).edges

    @property
    def stages(self) -> dict[str, Faithfulness]:
        """The scores of both circuits."""
        return {"before": self.before.faithfulness[0], "after": self.after.faithfulness[0]}

    def summary(self) -> str:
        """Return how many edges are left, and how faithful they are beside all of them."""
        old, new = self.before.circuit, self.circuit
        n, how = len(self.stages["after"].circuit), self.stages["after"].how
        where = f"On {n} pairs that neither saw" if self.is_held_out else "On the same pairs"
        shares = [
            f"{name} {100 * each.normalised:.1f} %" if each.normalised is not None else f"{name} {float(each.circuit.mean()):.3g}"
            for name, each in self.stages.items()
        ]
        what = "faithfulness" if self.stages["after"].normalised is not None else self.after.measured
        pairs = f"{self.n_searched} pair{'s' * (self.n_searched > 1)}"
        said = [
            f"{len(new):,} of the circuit's {len(old):,} edges and {len(new.nodes)} of its {len(old.nodes)} nodes are left.",
            f"Without the others the {self.after.measured} moves by at most {100 * self.tolerance:g} % of the gap between model and "
            f"empty circuit, on {pairs} under {how} ablation.",
            f"{where} the {what} is {', '.join(shares)}.",
            "|M-C| is how far the circuit is from the model, 0 at best.",
        ]
        return " ".join([*said, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the smaller circuit, the edges that were taken out, and the scores of both."""
        return {
            "circuit": CircuitDrawing(self.circuit).to_dict(),
            "removed": list(map(str, self.removed)),
            "tolerance": self.tolerance,
            "n_searched": self.n_searched,
            "is_held_out": self.is_held_out,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "notes": list(self.notes),
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return size and scores before and after."""
        rows = []
        for scores, (name, each) in zip((self.before, self.after), self.stages.items(), strict=True):
            share, interval = each.normalised, each.interval
            rows.append(
                [
                    name, f"{len(scores.circuit):,}", f"{len(scores.circuit.nodes)}",
                    *(f"{float(values.mean()):.3g}" for values in (each.model, each.circuit, each.empty)),
                    "-" if share is None else f"{100 * share:.1f}",
                    "-" if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f}",
                    f"{each.difference:.3g}",
                ]
            )  # fmt: skip
        return ["", "edges", "nodes", "model", "circuit", "empty", "share %", "95 %", "|M-C|"], rows

    def figures(self) -> list[Figure]:
        """Return the picture of what is left, and the faithfulness of both."""
        from cutaway.plots import bars

        shares = {"model": 1.0} | {name: each.normalised for name, each in self.stages.items() if each.normalised is not None}
        title = f"Faithfulness under {self.stages['after'].how} ablation"
        beside = [bars(list(shares.values()), labels=list(shares), title=title, label="share of model less empty")]
        return [*CircuitDrawing(self.circuit).figures(), *(beside if len(shares) > 1 else [])]

    def views(self) -> list[RenderableType]:
        """Return the table of both, and the nodes and edges that are left."""
        header, rows = self.table()
        return [filled_table(header, rows, right=header[1:]), *CircuitDrawing(self.circuit).views()]


def minimise_on_prompts(
    lm: LanguageModel,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    tolerance: float = 0.02,
    ablation: How | None = None,
    held_out: float = 0.5,
    least_gap: float = LEAST_GAP,
    seed: int = 0,
    command: str = "",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MinimisedCircuit:
    """Return a circuit without the edges that it can do without on some of the pairs, scored on the others.

    Where some of the pairs are those that the circuit was found with, these are searched and the others kept; else a share of
    `held_out` is kept, and one pair is used for both. The ablation is that which the circuit was found under unless one is given;
    `least_gap` is as in `evaluate_circuit`, and `command` is kept with the circuit. Raises ValueError as `minimise` does.
    """
    ablation = ablation or circuit.ablation
    searched, others = _parts(pairs, circuit, held_out, seed)
    smaller = minimise(
        lm.model, searched.tokens, searched.other_tokens, searched.metric, circuit, tolerance=tolerance, ablation=ablation, force=force,
        progress=progress, **searched.runs,
    )  # fmt: skip
    known = tuple(dict.fromkeys((*circuit.pair_hashes, *searched.hashes)))
    about = {"n_edges": len(circuit), "tolerance": tolerance, "ablation": ablation, "data": searched.data_hash}
    smaller = replace(smaller, pair_hashes=known, command=command, settings={**circuit.settings, "minimised": about})
    before, after = (
        evaluate_circuit(
            lm.model, others.tokens, others.other_tokens, others.metric, each, ablations=[ablation], n_random=0, n_subsets=0,
            units=None, least_gap=least_gap, seed=seed, measured=others.measured, force=True, **others.runs,
        )
        for each in (circuit, smaller)
    )  # fmt: skip
    return MinimisedCircuit(
        before=before,
        after=after,
        tolerance=tolerance,
        n_searched=len(searched),
        is_held_out=set(known).isdisjoint(others.hashes),
        notes=pairs.question.notes,
    )


def _parts(pairs: PromptPairs, circuit: Circuit, held_out: float, seed: int) -> tuple[PromptPairs, PromptPairs]:
    """Return the pairs to search and those to score on."""
    unknown = set(pairs.hashes) - set(circuit.pair_hashes)
    if unknown and not unknown.issuperset(pairs.hashes):
        return pairs.without(unknown), pairs.without(circuit.pair_hashes)
    return pairs.split(1 - held_out, seed=seed) if len(set(pairs.hashes)) > 1 and held_out else (pairs, pairs)
