"""Candidate circuits: which previous-token head writes what which induction head's keys read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from cutaway.interp.attention import head_label
from cutaway.interp.composition.scores import CompositionScores, composition_scores
from cutaway.interp.heads import HeadScore, HeadScores, detect_heads
from cutaway.interp.result import Result
from cutaway.interp.rows import model_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["CandidateCircuit", "CandidateCircuits", "candidate_circuits"]

_FIRST = 0.05  # the share of all earlier heads, by composition, in which a candidate is
_N_SHOWN = 10
_N_SIDES = 12  # heads along a side of the map


class CandidateCircuit(NamedTuple):
    """A previous-token head and an induction head of a later layer, and how much of what the second's keys read the first writes."""

    previous: tuple[int, int]
    """Its layer and head."""
    induction: tuple[int, int]
    previous_score: float
    """Its mean attention to the position before."""
    induction_score: float
    """Its prefix matching."""
    composition: float
    """The K-composition of the two."""
    excess: float
    """The same less what a head turned at random in the stream scores."""
    deviations: float
    """How far its square lies above that of a head turned at random, in standard deviations of the latter."""
    rank: int
    """The place of this previous-token head among all heads before the induction head, by composition with it; 1 is the strongest."""
    n_before: int
    """How many heads stand before the induction head."""

    @property
    def is_candidate(self) -> bool:
        """Whether the rank is among the first twentieth, rounded up, and the composition more than that of a head turned at random."""
        return self.rank <= _n_first(self.n_before) and self.excess > 0


@dataclass(frozen=True, eq=False, repr=False)
class CandidateCircuits(Result):
    """Pairs of heads that may make an induction circuit, the strongest composition first."""

    title: ClassVar[str] = "Candidate induction circuits"
    source: ClassVar[str] = (
        'Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (K-composition, induction heads)'
    )

    pairs: tuple[CandidateCircuit, ...]
    """All pairs of heads that score the threshold, in this order of layers; also those that compose less than chance."""
    heads: HeadScores
    composition: CompositionScores
    threshold: float

    @property
    def candidates(self) -> tuple[CandidateCircuit, ...]:
        """The pairs in which the previous-token head is among the first twentieth of all heads that the keys could read.

        To compose more than a head turned at random is needed too, and says little: in trained models most heads do.
        """
        return tuple(pair for pair in self.pairs if pair.is_candidate)

    @property
    def n_by_chance(self) -> float:
        """How many of the pairs would be candidates if their ranks were drawn."""
        return sum(_n_first(pair.n_before) / pair.n_before for pair in self.pairs)

    @property
    def share_of_all(self) -> float:
        """The share of all two heads that compose more than a head turned at random: in trained models many do."""
        scores = self.composition.scores["k"]
        scores = scores[scores.isfinite()]
        return float((scores > self.composition.baseline).double().mean())

    def summary(self) -> str:
        """Return the strongest pair, or what is missing."""
        n_previous, n_induction = (len(self.heads.of_kind(kind, self.threshold)) for kind in ("previous", "induction"))
        counted = f"{n_previous} previous-token and {n_induction} induction heads score at least {self.threshold:g}"
        if not self.pairs:
            foremost = " and ".join(f"{kind} {self._best(kind)}" for kind in ("previous", "induction"))
            order = ", and no induction head stands after a previous-token head" if n_previous and n_induction else ""
            return f"No candidates: {counted}{order}. The foremost are {foremost}."
        rule = (
            f"in which the first is among the {100 * _FIRST:g} % of all heads before the second that its keys read most "
            f"(drawn ranks would make {self.n_by_chance:.1f})"
        )
        if not self.candidates:
            return f"{counted}; of {len(self.pairs)} pairs there is none {rule}."
        best = self.candidates[0]
        return (
            f"{counted}; {len(self.candidates)} of {len(self.pairs)} pairs are candidates, {rule}. Most of all the keys of "
            f"{head_label(*best.induction)} read {head_label(*best.previous)} ({best.composition:.3f}; a head turned at random "
            f"{self.composition.baseline:.3f}, {best.deviations:.0f} standard deviations below; rank {best.rank} of {best.n_before}). "
            "Weights alone make candidates: path patching shows what is used."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the pairs, and how heads scored."""
        return {
            "threshold": self.threshold,
            "baseline": self.composition.baseline,
            "share_of_all_above_baseline": self.share_of_all,
            "candidates_by_drawn_ranks": self.n_by_chance,
            "pairs": [pair._asdict() | {"is_candidate": pair.is_candidate} for pair in self.pairs],
            "heads": self.heads.to_dict(),
        }

    def figures(self) -> list[Figure]:
        """Return the map of previous-token heads by induction heads, where there are any."""
        from cutaway.plots import heatmap

        if not self.pairs:
            return [self.heads.map_of("previous"), self.heads.map_of("induction")]
        rows, columns, values = self._map()
        return [
            heatmap(
                values,
                rows=rows,
                columns=columns,
                title="K-composition",
                row_title="previous-token head writes",
                column_title="keys of the induction head read",
                label="score less baseline",
                signed=True,
            )
        ]

    def views(self) -> list[RenderableType]:
        """Return the strongest pairs, and the map of them."""
        if not self.pairs:
            heads = sorted({(each.layer, each.head) for kind in ("previous", "induction") for each in self.heads.top(3, kind)})
            return [self.heads.grid_of(heads)]
        headers, rows = self.table()
        shown = table(*headers, right=["score", *headers[4:]])
        for row in rows:
            shown.add_row(*row)
        labels, columns, values = self._map()
        return [shown, grid(values, rows=labels, columns=columns, signed=True, corner="K less baseline")]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the strongest pairs."""
        headers = ("previous", "score", "induction", "score", "K", "less baseline", "rank")
        rows = [
            (
                head_label(*pair.previous),
                f"{pair.previous_score:.2f}",
                head_label(*pair.induction),
                f"{pair.induction_score:.2f}",
                f"{pair.composition:.3f}",
                f"{pair.excess:+.3f}",
                f"{pair.rank} of {pair.n_before}",
            )
            for pair in self.pairs[:_N_SHOWN]
        ]
        return headers, rows

    def _best(self, kind: str) -> str:
        best = self.heads.top(1, kind)[0]  # type: ignore[arg-type]
        return f"{head_label(best.layer, best.head)} ({best.score:.2f})"

    def _map(self) -> tuple[list[str], list[str], list[list[float]]]:
        """Return the heads of the strongest pairs by layer, and the excess of every two of them."""
        sides = [list(dict.fromkeys(getattr(pair, side) for pair in self.pairs))[:_N_SIDES] for side in ("previous", "induction")]
        excess = {(pair.previous, pair.induction): pair.excess for pair in self.pairs}
        rows, columns = map(sorted, sides)
        values = [[excess.get((row, column), float("nan")) for column in columns] for row in rows]
        return [head_label(*row) for row in rows], [head_label(*column) for column in columns], values


def candidate_circuits(
    lm: LanguageModel | Transformer,
    *,
    n_sequences: int = 16,
    seq_length: int | None = None,
    seed: int = 0,
    threshold: float = 0.4,
) -> CandidateCircuits:
    """Pair every previous-token head with every induction head of a later layer, and score how the two compose.

    Heads are found as `detect_heads` does, from `threshold` on. K-composition is that of `composition_scores`: by weights alone, with
    what the induction head's own queries make of the keys that it may share, norm gains folded, less what a head turned at random
    scores; with rotary positions as a mean over all turns. Layers between the two heads are left out. Raises ValueError for a model of
    one layer.
    Source: Elhage et al. 2021, "Three Kinds of Composition" and "Induction Heads".
    """
    model = model_of(lm)
    composition = composition_scores(model, ("k",))
    heads = detect_heads(lm, n_sequences=n_sequences, seq_length=seq_length, seed=seed, threshold=threshold)
    pairs = [
        _pair(composition, previous, induction)
        for previous in heads.of_kind("previous")
        for induction in heads.of_kind("induction")
        if previous.layer < induction.layer
    ]
    return CandidateCircuits(tuple(sorted(pairs, key=lambda pair: -pair.excess)), heads, composition, threshold)


def _n_first(n_before: int) -> int:
    """Return to which rank a pair is a candidate."""
    return math.ceil(n_before * _FIRST)


def _pair(composition: CompositionScores, previous: HeadScore, induction: HeadScore) -> CandidateCircuit:
    earlier, later = (previous.layer, previous.head), (induction.layer, induction.head)
    score = composition.score("k", earlier, later)
    all_before = composition.scores["k"][: later[0], :, later[0], later[1]]  # layer head
    return CandidateCircuit(
        previous=earlier,
        induction=later,
        previous_score=previous.score,
        induction_score=induction.score,
        composition=score,
        excess=score - composition.baseline,
        deviations=composition.deviations["k"][(*earlier, *later)].item(),
        rank=1 + int(torch.gt(all_before, score).sum()),
        n_before=all_before.numel(),
    )
