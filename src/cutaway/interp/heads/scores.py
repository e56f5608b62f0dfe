"""How far each head is of each kind, with what a head that does nothing of the sort would score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.attention import head_label
from cutaway.interp.heads.repeated_tokens import RepeatedTokens
from cutaway.interp.result import Result
from cutaway.report import grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["HeadKind", "HeadScore", "HeadScores", "KIND_NAMES", "THRESHOLD"]

HeadKind = Literal["previous", "first", "duplicate", "induction", "copying", "uniform"]
"""What a head may be known to do; `detect_heads` says how each is scored."""

KIND_NAMES: Mapping[HeadKind, str] = {
    "previous": "previous token",
    "first": "first token",
    "duplicate": "duplicate token",
    "induction": "induction",
    "copying": "copying (OV)",
    "uniform": "near-uniform",
}
"""The kinds in words."""

_COLUMNS: Mapping[HeadKind, str] = {"duplicate": "duplic.", "induction": "induct."}  # where eight letters fit

THRESHOLD = 0.5
"""The score from which a head is said to be of a kind, unless another is given."""

_N_SHOWN = 3  # heads of a kind that the terminal shows
_N_WHOLE = 24  # heads that it shows whatever they do


class HeadScore(NamedTuple):
    """How far a head is of a kind; `null` is the score of a head that does nothing of the sort."""

    layer: int
    head: int
    kind: HeadKind
    score: float
    null: float


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Result):
    """Every head of a model scored for what heads are known to do, and the model's loss on what it had read before."""

    title: ClassVar[str] = "Heads by what they do"
    source: ClassVar[str] = (
        'Olsson et al. 2022, "In-context Learning and Induction Heads" (prefix matching); Elhage et al. 2021, '
        '"A Mathematical Framework for Transformer Circuits" (copying)'
    )

    scores: Mapping[HeadKind, Float[Tensor, "layer head"]]
    """From 0 to 1, copying from -1; no copying where logits are not one for each token."""
    nulls: Mapping[HeadKind, float]
    """What uniform attention would score; for uniform itself, attention to one token alone; for copying 0, as random weights do."""
    losses: Float[Tensor, " pos"] | None
    """The mean loss in nats after each position but the last; None where logits are not of the next token."""
    drawn: RepeatedTokens
    """The sequences: how many, how long, why no longer."""
    threshold: float = THRESHOLD
    """From where on a head is shown as of a kind."""

    @property
    def loss_first(self) -> float | None:
        """The loss on the first copy but its first token, in nats a token."""
        return self._loss(self.drawn.start)

    @property
    def loss_second(self) -> float | None:
        """The loss on the second copy but its first token, which nothing foretells."""
        return self._loss(self.drawn.start + self.drawn.seq_length)

    def both_losses(self) -> tuple[float, float]:
        """Return the losses on both copies; raises ValueError for a model that foretells no tokens."""
        if self.loss_first is None or self.loss_second is None:
            raise ValueError(
                "the model foretells none of the tokens that it reads: give a causal model with logits of its own tokens"
            )
        return self.loss_first, self.loss_second

    def _loss(self, start: int) -> float | None:
        return None if self.losses is None else self.losses[start : start + self.drawn.seq_length - 1].mean().item()

    def score(self, kind: HeadKind, layer: int, head: int) -> HeadScore:
        """Return how far a head is of a kind."""
        return HeadScore(layer, head, kind, self.scores[_known(kind, self.scores)][layer, head].item(), self.nulls[kind])

    def top(self, k: int, kind: HeadKind) -> list[HeadScore]:
        """Return the k heads that are most of a kind, the foremost first; raises ValueError for a kind there is not."""
        scores = self.scores[_known(kind, self.scores)]
        order = scores.flatten().argsort(descending=True, stable=True)[:k].tolist()
        return [self.score(kind, *divmod(place, scores.shape[1])) for place in order]

    def of_kind(self, kind: HeadKind, threshold: float | None = None) -> list[HeadScore]:
        """Return the heads that score at least the threshold, the foremost first."""
        least = self.threshold if threshold is None else threshold
        return [each for each in self.top(self.scores[_known(kind, self.scores)].numel(), kind) if each.score >= least]

    def labels(self, threshold: float | None = None) -> dict[tuple[int, int], list[HeadScore]]:
        """Return for every head by (layer, head) the kinds it scores at least the threshold for; heads without any are left out."""
        found: dict[tuple[int, int], list[HeadScore]] = {}
        for kind in self.scores:
            for each in self.of_kind(kind, threshold):
                found.setdefault((each.layer, each.head), []).append(each)
        return {head: sorted(found[head], key=lambda each: -each.score) for head in sorted(found)}

    def summary(self) -> str:
        """Return how many heads of each kind there are, and what reading the tokens before is worth."""
        counts = [f"{len(self.of_kind(kind))} {KIND_NAMES[kind]}" for kind in self.scores]
        n_heads = next(iter(self.scores.values())).numel()
        found = f"Of {n_heads} heads score at least {self.threshold:g}: {', '.join(counts)}."
        return " ".join(filter(None, (found, self.losses_said(), self.drawn.said())))

    def losses_said(self) -> str:
        """Return the losses of the two copies as a sentence, or nothing where there are none."""
        if self.loss_first is None or self.loss_second is None:
            return ""
        return f"Random tokens cost {self.loss_first:.2f} nats each the first time and {self.loss_second:.2f} when they come again."

    def to_dict(self) -> dict[str, Any]:
        """Return the scores of all heads by kind with their nulls, which heads are of which kinds, and the losses."""
        return {
            **self.drawn.to_dict(),
            "threshold": self.threshold,
            "loss_first": self.loss_first,
            "loss_second": self.loss_second,
            "losses": None if self.losses is None else self.losses.tolist(),
            "nulls": dict(self.nulls),
            "scores": {kind: scores.tolist() for kind, scores in self.scores.items()},
            "labels": [
                {"layer": layer, "head": head, "kinds": {each.kind: each.score for each in kinds}}
                for (layer, head), kinds in self.labels().items()
            ],
        }

    def figures(self) -> list[Figure]:
        """Return a map of layers by heads for each kind, and the loss by position."""
        return [self.map_of(kind) for kind in self.scores] + self.loss_figures()

    def map_of(self, kind: HeadKind) -> Figure:
        """Return the map of one kind."""
        from cutaway.plots import heatmap

        scores = self.scores[kind]
        return heatmap(
            scores.numpy(force=True),
            rows=[str(layer) for layer in range(scores.shape[0])],
            columns=[str(head) for head in range(scores.shape[1])],
            title=KIND_NAMES[kind][0].upper() + KIND_NAMES[kind][1:],
            row_title="layer",
            column_title="head",
            label="score",
            signed=kind == "copying",
            limit=1.0,
        )

    def loss_figures(self) -> list[Figure]:
        """Return the loss by position, where there is one."""
        from cutaway.plots import lines

        if self.losses is None:
            return []
        start, n = self.drawn.start, self.drawn.seq_length
        spans = {"first copy": range(start, start + n - 1), "second copy": range(start + n - 1, start + 2 * n - 1)}
        series = {name: ([pos + 1 for pos in span], self.losses[span.start : span.stop].tolist()) for name, span in spans.items()}
        return [lines(series, title="Loss on random tokens that come twice", x_label="position", y_label="loss, nats a token")]

    def views(self) -> list[RenderableType]:
        """Return the kinds with their foremost heads, and the scores of these heads, or of all where they are few."""
        headers = ("kind", "null", "heads", "foremost")
        kinds = table(*headers, right=("null", "heads"))
        for row in self._rows(_N_SHOWN):
            kinds.add_row(*row)
        return [kinds, self.grid_of(self._shown())]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the kinds with their nulls and foremost heads."""
        return ("kind", "null", f"heads from {self.threshold:g}", "foremost"), self._rows(10)

    def grid_of(self, heads: Sequence[tuple[int, int]]) -> RenderableType:
        """Return the scores of some heads for a terminal, a column for each kind and the nulls in the last line."""
        rows = [[self.scores[kind][head].item() for kind in self.scores] for head in heads]
        rows.append([self.nulls[kind] for kind in self.scores])
        labels = [head_label(*head) for head in heads] + ["null"]
        return grid(
            rows,
            rows=labels,
            columns=[_COLUMNS.get(kind, kind) for kind in self.scores],
            corner="head",
            limit=1.0,
            signed="copying" in self.scores,
        )

    def _rows(self, n: int) -> list[tuple[str, str, str, str]]:
        return [
            (
                KIND_NAMES[kind],
                f"{self.nulls[kind]:.2f}",
                str(len(self.of_kind(kind))),
                ", ".join(f"{head_label(each.layer, each.head)} {each.score:.2f}" for each in self.top(n, kind)),
            )
            for kind in self.scores
        ]

    def _shown(self) -> list[tuple[int, int]]:
        n_layers, n_heads = next(iter(self.scores.values())).shape
        if n_layers * n_heads <= _N_WHOLE:
            return [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        return sorted({(each.layer, each.head) for kind in self.scores for each in self.top(_N_SHOWN, kind)})


def _known(kind: HeadKind, scores: Mapping[HeadKind, Tensor]) -> HeadKind:
    if kind not in scores:
        raise ValueError(f"there are no scores of {kind!r}; there are {', '.join(map(repr, scores))}")
    return kind
