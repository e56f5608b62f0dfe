"""A circuit found from prompts: edges scored, pruned, and checked on prompts that were not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.circuit_scores import CircuitScores
from cutaway.interp.circuits.drawing import CircuitDrawing
from cutaway.interp.circuits.evaluation import evaluate_circuit
from cutaway.interp.circuits.faithfulness import LEAST_GAP
from cutaway.interp.circuits.prompts import PromptPairs, pairs_to_store
from cutaway.interp.circuits.result import EdgeScores
from cutaway.interp.circuits.selecting import SelectionOptions, select_circuit
from cutaway.interp.result import Result
from cutaway.language_model import LanguageModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["FoundCircuit", "find_circuit"]

_N_TRIED = 10


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FoundCircuit(Result):
    """A circuit, how it was found, and how faithful it is on other prompts."""

    title: ClassVar[str] = "Circuit found"
    source: ClassVar[str] = (
        'edge attribution patching (Syed et al. 2023), greedy pruning (Hanna et al. 2024, "Have Faith in Faithfulness"), ACDC (Conmy '
        "et al. 2023)"
    )

    circuit: Circuit
    scores: CircuitScores
    n_dropped: int
    """How many edges were taken and then dropped, as no path has them."""
    is_held_out: bool
    """Whether the prompts of the scores are others than those that it was found with."""
    tried: EdgeScores | None = None
    """The scores of the prompts that it was found with, where edges were tried beside them."""
    notes: tuple[str, ...] = ()

    @property
    def drawing(self) -> CircuitDrawing:
        """The circuit to look at."""
        return CircuitDrawing(self.circuit)

    def summary(self) -> str:
        """Return how large it is, what was dropped, and how faithful it is."""
        sentences = [self.drawing.summary()]
        if self.n_dropped:
            sentences.append(f"{self.n_dropped} more edges were taken and dropped, as no path of the circuit has them.")
        if self.tried is not None:
            sentences += self.tried.agreement_said()
        n = len(self.scores.faithfulness[0].circuit)
        where = f"On {n} pairs that it was not found with" if self.is_held_out else "On the same prompts that it was found with"
        sentences += [f"{where}, measured: {self.scores.measured}.", *self.scores.findings()]
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the circuit and its scores."""
        return {
            "circuit": self.drawing.to_dict(),
            "n_dropped": self.n_dropped,
            "is_held_out": self.is_held_out,
            "scores": self.scores.to_dict(),
            "tried": None if self.tried is None else {name: self.tried.to_dict()[name] for name in ("exact", "agreement")},
            "notes": list(self.notes),
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the edges by score."""
        return self.drawing.table()

    def figures(self) -> list[Figure]:
        """Return the picture, and how faithful it is."""
        return [*self.drawing.figures(), *self.scores.figures()]

    def views(self) -> list[RenderableType]:
        """Return nodes, edges and the table of ablations."""
        tried = (
            []
            if self.tried is None
            else [self.tried.strongest("Edges tried one by one", n_edges=min(_N_TRIED, len(self.tried.exact)))]
        )
        return [*self.drawing.views(), *tried, *self.scores.views()]


def find_circuit(
    lm: LanguageModel,
    pairs: PromptPairs,
    *,
    held_out: float = 0.5,
    n_random: int = 0,
    least_gap: float = LEAST_GAP,
    seed: int = 0,
    **options: Unpack[SelectionOptions],
) -> FoundCircuit:
    """Return the circuit of some of the pairs, scored on the others: `held_out` is their share. Pairs that are the same go
    together, and one pair is used for both. `select_circuit` is the same of tokens and a metric of one's own, and has the same
    options: `n_edges`, 200 unless given, `method`, and the others below.

    `selection` prunes the scores of `method` to `n_edges`, or with `threshold` to those of such a share of the gap, or with `acdc`
    takes out each edge that matters less than `threshold`, which needs no scores. `exact_top` tries so many edges of the largest
    scores, to see whether these are right. `ablation` is what edges are scored by, and what runs put in the place of what is outside;
    the mean of pairs of different length is over positions too. `features` are nodes beside what they leave of their MLPs; of a
    dictionary of an MLP's output, a transcoder to it, or the folder of one, those `n_features` that move the metric most between the
    pairs that are searched; `least_gap` is as in `evaluate_circuit`. The circuit keeps both parts of the pairs, `name` and `command`.
    Raises ValueError as the parts do.
    """
    finding, others = pairs.split(1 - held_out, seed=seed) if len(set(pairs.hashes)) > 1 and held_out else (pairs, pairs)
    selected = select_circuit(
        lm.model, finding.tokens, finding.other_tokens, finding.metric, measured=pairs.measured, **options, **finding.runs
    )
    circuit = replace(
        selected.circuit,
        prompts=pairs_to_store(lm, finding, None if others is finding else others),
        settings={**selected.circuit.settings, "held_out": held_out, "seed": seed},
    )
    scores = evaluate_circuit(
        lm.model, others.tokens, others.other_tokens, others.metric, circuit, ablations=[circuit.ablation], n_random=n_random,
        n_subsets=0, units=None, least_gap=least_gap, seed=seed, measured=others.measured, force=True, **others.runs,
    )  # fmt: skip
    return FoundCircuit(
        circuit=circuit,
        scores=scores,
        n_dropped=selected.n_dropped,
        is_held_out=set(finding.hashes).isdisjoint(others.hashes),
        tried=selected.edge_scores if selected.edge_scores is not None and selected.edge_scores.exact else None,
        notes=pairs.question.notes,
    )
