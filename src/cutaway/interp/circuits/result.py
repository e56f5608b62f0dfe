"""What edge scores are: a number for every edge, the exact effect of those that were tried, and how they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.attribution.estimates import Completeness
from cutaway.interp.circuits.graph import Edge, Graph
from cutaway.interp.ranks import EffectAgreement, compare_effects
from cutaway.interp.result import Result
from cutaway.interp.tensors import finite_or_none
from cutaway.report import grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["EdgeMethod", "EdgeScore", "EdgeScores"]

EdgeMethod = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "exact"]
"""How edges are scored: by gradients in the run, along a line of the embeddings, along one of each sender's output, or by trying."""

_N_SHOWN, _N_BARS = 10, 20
_N_DRAWN, _N_GRID = 48, 16  # senders or receivers that a map and a terminal show one by one
_HOW: Mapping[EdgeMethod, str] = {
    "eap": "Each edge is scored to first order, by the gradient in the run",
    "eap-ig-inputs": "Each edge is scored by the gradient averaged over {steps} points of the line of the embeddings",
    "eap-ig-activations": "Each edge is scored by the gradient averaged over {steps} points of the line of its sender's output",
    "exact": "Each edge is patched by itself",
}


class EdgeScore(NamedTuple):
    """An edge with its score, and what patching it alone does to the metric where that was tried."""

    edge: Edge
    score: float
    exact: float | None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EdgeScores(Result):
    """What the metric gains, or is estimated to gain, when each edge alone carries what it does in another run, or ablated."""

    title: ClassVar[str] = "Edge scores"
    source: ClassVar[str] = (
        'edge attribution patching (Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"), with integrated '
        'gradients Hanna et al. 2024, "Have Faith in Faithfulness"; exactly, path patching (Goldowsky-Dill et al. 2023)'
    )

    graph: Graph
    method: EdgeMethod
    steps: int | None
    """At how many points of a line the gradient was taken, for methods that have one."""
    scores: Float[Tensor, "sender receiver"]
    """The mean over rows of the metric's gain; NaN where there is no edge."""
    errors: Float[Tensor, "sender receiver"]
    """The standard error of that mean; NaN for a single row."""
    base: Float[Tensor, " batch"]
    """The metric of the run that everything starts from."""
    other: Float[Tensor, " batch"]
    """The metric of the run that is patched from, or with everything ablated."""
    exact: Mapping[Edge, float] = field(repr=False)
    """The exact gain, averaged over rows, of the edges that were tried beside their scores; with method exact all scores are exact."""
    threshold: float
    """The share of the difference between the runs from which on an edge counts."""
    frozen: tuple[str, ...] = ()
    ablation: How = "resample"
    """What an edge carries: what its sender writes in the other run, or nothing, or a mean."""
    replacement: str = ""
    """In words, where it is not the other run."""
    measured: str = "metric"
    """The metric in words."""
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """The metric of the other run less that of the run."""
        return (self.other.mean() - self.base.mean()).item()

    @property
    def has_gap(self) -> bool:
        """Whether that is more than rounding."""
        scale = torch.maximum(self.base.abs(), self.other.abs()).max().item()
        return abs(self.gap) > 32 * torch.finfo(self.base.dtype).eps * scale

    @property
    def completeness(self) -> Completeness | None:
        """The sum of the embedding's scores and what it comes to as points grow, where the line is that of the embeddings."""
        if self.method != "eap-ig-inputs" or self.frozen or self.ablation != "resample":
            return None  # the line then ends at no run of tokens
        return Completeness(self.scores[0].nansum().item(), self.gap)

    def score(self, edge: Edge | str) -> float:
        """Return an edge's score; raises ValueError for one that the graph does not have."""
        return self.scores[self.graph.place(self.graph.parse(edge) if isinstance(edge, str) else edge)].item()

    def ranked(self, n: int | None = None) -> list[EdgeScore]:
        """Return the edges by the size of their exact effect, then those not tried by their score; all of them, or the first `n`."""
        tried = [EdgeScore(edge, self.score(edge), exact) for edge, exact in self.exact.items()]
        tried.sort(key=lambda each: -abs(each.exact or 0.0))
        n = self.graph.n_edges if n is None else min(n, self.graph.n_edges)
        sizes = self.scores.abs().nan_to_num(nan=-1.0)
        order = sizes.flatten().sort(descending=True, stable=True).indices[: min(self.graph.n_edges, n + len(tried))]
        places = torch.stack(torch.unravel_index(order, sizes.shape), dim=-1).tolist()
        edges = [Edge(self.graph.senders[sender], self.graph.receivers[receiver]) for sender, receiver in places]
        scored = zip(edges, self.scores.flatten()[order].tolist(), strict=True)
        return [*tried, *(EdgeScore(edge, score, None) for edge, score in scored if edge not in self.exact)][:n]

    def agreement(self) -> EffectAgreement[Edge] | None:
        """Return how scores and exact effects agree among the edges that were tried; None where none was."""
        if not self.exact:
            return None
        tried = [(edge, self.score(edge), exact) for edge, exact in self.exact.items()]
        return compare_effects(tried, base=self.base, other=self.other, threshold=self.threshold)

    def agreement_said(self) -> list[str]:
        """Return a sentence on how scores and exact effects agree; none where no edge was tried."""
        if (agreement := self.agreement()) is None:
            return []
        among = " among those tried" if agreement.n_tried < self.graph.n_edges else ""
        return [f"{agreement.n_tried} edges tried: {agreement.said()}{among}."]

    def summary(self) -> str:
        """Return the metric of both runs, how edges were scored, the strongest, and how scores and exact effects agree."""
        rows = f" (mean of {len(self.base)} prompts)" if len(self.base) > 1 else ""
        sentences = [
            f"The {self.measured}{rows} is {_number(self.base.mean())} in the run and {_number(self.other.mean())} {self._other_said}.",
            f"{_HOW[self.method].format(steps=self.steps)}: {self.graph.n_edges:,} edges.",
        ]
        best = self.ranked(1)
        if not any(each.score or each.exact for each in best):
            sentences.append("No edge moves it: the runs are alike in all that it reads.")
        else:
            exact = f", {_signed(best[0].exact)} when tried" if best[0].exact is not None else ""
            sentences.append(f"Most comes by {best[0].edge}: {_signed(best[0].score)}{exact}.")
            sentences.append(
                f"{self._n_counted():,} edges move it by {100 * self.threshold:g} % of the difference between the runs or more."
                if self.has_gap
                else "The runs do not differ in its mean, so that no edge is a share of that."
            )
        if self.completeness is not None:
            sentences.append(
                f"The embedding's scores sum to {_signed(self.completeness.total)}; with more points they come to "
                f"{_signed(self.completeness.difference)}."
            )
        sentences += self.agreement_said()
        if self.ablation == "zero" and self.method != "exact" and self.graph.config.norm != "none":
            sentences.append(
                "Norms divide out the size of what they read, so an edge that carries most of it scores near 0 and may do much: try "
                "edges exactly, or take mean or resample ablation."
            )
        if self.frozen:
            sentences.append(f"Held norms: {', '.join(self.frozen)}.")
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return settings, the metric of both runs, every edge's score and standard error, the exact effects, and how they agree."""
        agreement = self.agreement()
        return {
            "metric": self.measured,
            "method": self.method,
            "steps": self.steps,
            "kv": self.graph.kv,
            "ablation": self.ablation,
            "frozen_norms": list(self.frozen),
            "threshold": self.threshold,
            "completeness": None if self.completeness is None else self.completeness._asdict(),
            "notes": list(self.notes),
            "patched_into": self.base.tolist(),
            "patched_from": self.other.tolist(),
            "n_edges": self.graph.n_edges,
            "senders": list(map(str, self.graph.senders)),
            "receivers": list(map(str, self.graph.receivers)),
            "scores": finite_or_none(self.scores.tolist()),
            "errors": finite_or_none(self.errors.tolist()),
            "exact": [{"edge": str(edge), "score": self.score(edge), "effect": effect} for edge, effect in self.exact.items()],
            "agreement": None if agreement is None else agreement.to_dict(),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the strongest edges, or all that were tried."""
        ranked = self.ranked(max(_N_BARS, len(self.exact)))
        return ["edge", "score", "standard error", "exact"], [self._row(each) for each in ranked]

    def figures(self) -> list[Figure]:
        """Return a map of senders by receivers, or in large graphs of layers by layers, and the strongest edges."""
        from cutaway.plots import bars, heatmap

        best, (title, rows, columns, values, words) = self.ranked(_N_BARS), self._map(_N_DRAWN)
        scores = heatmap(
            values.numpy(force=True), rows=rows, columns=columns, title=title, row_title="sender", column_title="receiver", label=words,
            signed=bool((values < 0).any()),
        )  # fmt: skip
        strongest = bars(
            [each.score if each.exact is None else each.exact for each in best],
            labels=[f"{each.edge}" + ("" if each.exact is None else ", tried") for each in best],
            title="The strongest edges",
            label=f"gain of the {self.measured}",
        )
        return [scores, strongest]

    def views(self) -> list[RenderableType]:
        """Return the map in a terminal's cells, where there are not too many layers for one, and the strongest edges."""
        from rich.console import Group
        from rich.text import Text

        title, rows, columns, values, words = self._map(_N_GRID)
        cells = grid(values.numpy(force=True), rows=rows, columns=columns, signed=bool((values < 0).any()), corner="from")
        drawn = [Group(Text(f"{title} ({words})", style="bold"), cells)] if len(rows) <= _N_GRID else []
        return [*drawn, self.strongest()]

    def strongest(self, title: str = "The strongest edges", *, n_edges: int = _N_SHOWN) -> RenderableType:
        """Return a table of the strongest edges, those that were tried first."""
        header, _ = self.table()
        n = 4 if self.exact else 3
        shown = table(*header[:n], right=header[1:n], title=title)
        for each in self.ranked(n_edges):
            shown.add_row(*self._row(each)[:n])
        return shown

    @property
    def _other_said(self) -> str:
        """The other run in words."""
        return f"with everything ablated ({self.replacement})" if self.replacement else "in the other"

    def _n_counted(self) -> int:
        """Return how many edges matter, by their exact effect where that is known."""
        least = self.threshold * abs(self.gap)
        found = self.scores.clone()
        for edge, effect in self.exact.items():
            found[self.graph.place(edge)] = effect
        return int((found.abs() >= least).sum())

    def _row(self, each: EdgeScore) -> list[str]:
        error = self.errors[self.graph.place(each.edge)].item()
        shown = "" if math.isnan(error) else f"{error:.2g}"
        return [str(each.edge), _signed(each.score), shown, "" if each.exact is None else _signed(each.exact)]

    def _map(self, n: int) -> tuple[str, list[str], list[str], Tensor, str]:
        """Return title, rows, columns, values and their meaning: of all edges, or of layers where over `n` senders or receivers are."""
        senders, receivers = self.graph.senders, self.graph.receivers
        if max(len(senders), len(receivers)) <= n:
            return "Edge scores", list(map(str, senders)), list(map(str, receivers)), self.scores, f"gain of the {self.measured}"
        n_layers = self.graph.config.n_layers
        rows = torch.tensor([1 + node.layer for node in senders])
        columns = torch.tensor([n_layers if node.kind == "logits" else node.layer for node in receivers])
        sizes = self.scores.abs().nan_to_num(nan=0.0)
        values = sizes.new_zeros(n_layers + 1, n_layers + 1)
        values.index_put_((rows[:, None], columns), sizes, accumulate=True)
        has_edge = (
            torch.zeros_like(values).index_put_((rows[:, None], columns), self.graph.has_edge.to(values), accumulate=True) > 0
        )
        layers = list(map(str, range(n_layers)))
        words = f"gain of the {self.measured}, sizes summed"
        return "Edge scores by layers", ["embed", *layers], [*layers, "logits"], values.masked_fill(~has_edge, math.nan), words


def _number(value: float | Tensor) -> str:
    return f"{float(value):.4g}"


def _signed(value: float) -> str:
    return f"{value:+.4g}"
