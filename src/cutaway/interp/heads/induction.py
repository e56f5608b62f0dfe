"""Induction heads: those that find what followed this token the last time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.attention import head_label
from cutaway.interp.heads.detection import detect_heads
from cutaway.interp.heads.scores import THRESHOLD, HeadScores
from cutaway.interp.result import Result
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["InductionHeads", "induction_heads"]


@dataclass(frozen=True, eq=False, repr=False)
class InductionHeads(Result):
    """The heads that match prefixes most, and what the model gains by what it has read before."""

    title: ClassVar[str] = "Induction heads"
    source: ClassVar[str] = (
        'Olsson et al. 2022, "In-context Learning and Induction Heads" (prefix matching, and copying by eigenvalues)'
    )

    scores: HeadScores
    top_k: int

    def summary(self) -> str:
        """Return how many there are, the strongest, and the loss on what is read again."""
        found, best = self.scores.of_kind("induction"), self.scores.top(1, "induction")[0]
        n_heads = self.scores.scores["induction"].numel()
        strongest = f"{head_label(best.layer, best.head)} with {best.score:.2f} (uniform attention: {best.null:.2f})"
        looking = "looks" if len(found) == 1 else "look"
        counted = (
            f"{len(found) or 'None'} of {n_heads} heads {looking} with at least {self.scores.threshold:g} of their attention at "
        )
        counted += "what followed the token the last time"
        return " ".join(
            filter(None, (f"{counted}; the strongest is {strongest}.", self.scores.losses_said(), self.scores.drawn.said()))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the strongest heads with all their scores, and everything that was measured."""
        return {"top": [self._as_dict(*head) for head in self._heads()], **self.scores.to_dict()}

    def figures(self) -> list[Figure]:
        """Return the strongest heads, a map of all, and the loss by position."""
        from cutaway.plots import bars

        top = self.scores.top(self.top_k, "induction")
        labels = [head_label(each.layer, each.head) for each in top]
        strongest = bars([each.score for each in top], labels=labels, title="Prefix matching", label="mean attention", signed=False)
        return [strongest, self.scores.map_of("induction"), *self.scores.loss_figures()]

    def views(self) -> list[RenderableType]:
        """Return a table of the strongest heads, and what else these do."""
        headers, rows = self.table()
        shown = table(*headers, right=[*headers[:1], *headers[2:]])
        for row in rows:
            shown.add_row(*row)
        return [shown, self.scores.grid_of(self._heads())]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the strongest heads."""
        headers = ("rank", "head", "prefix matching", "times uniform") + (("copying",) if "copying" in self.scores.scores else ())
        rows = []
        for rank, each in enumerate(self.scores.top(self.top_k, "induction"), start=1):
            row = [str(rank), head_label(each.layer, each.head), f"{each.score:.3f}", f"{each.score / each.null:.1f}"]
            if "copying" in self.scores.scores:
                row.append(f"{self.scores.score('copying', each.layer, each.head).score:+.2f}")
            rows.append(tuple(row))
        return headers, rows

    def _heads(self) -> list[tuple[int, int]]:
        return [(each.layer, each.head) for each in self.scores.top(self.top_k, "induction")]

    def _as_dict(self, layer: int, head: int) -> dict[str, Any]:
        return {
            "layer": layer,
            "head": head,
            **{kind: self.scores.score(kind, layer, head).score for kind in self.scores.scores},
        }


def induction_heads(
    lm: LanguageModel | Transformer,
    *,
    n_sequences: int = 16,
    seq_length: int | None = None,
    seed: int = 0,
    top_k: int = 10,
    threshold: float = THRESHOLD,
) -> InductionHeads:
    """Return the `top_k` heads that match prefixes most on random tokens that come twice; arguments else are those of `detect_heads`.

    Raises ValueError for lengths that do not fit and a `top_k` below 1. Source: Olsson et al. 2022, "Prefix matching".
    """
    if top_k < 1:
        raise ValueError(f"{top_k} heads were asked for; ask for at least one")
    return InductionHeads(detect_heads(lm, n_sequences=n_sequences, seq_length=seq_length, seed=seed, threshold=threshold), top_k)
