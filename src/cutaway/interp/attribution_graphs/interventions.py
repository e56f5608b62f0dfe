"""Features changed one at a time, and what happens to a logit: by the graph, and in runs that let more and more respond.

Transcoders are spliced in with their errors, up to the last run, which is the model's own. Beside them stands a null: random directions
as long as what the features write, added at the same places in the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.changes import (
    RESPONDS,
    Held,
    check_model,
    check_transcoders,
    measured_changes,
    predicted_changes,
    written_by,
)
from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.replacement import Frozen, Replacement, by_layer, replace_mlps
from cutaway.interp.ranks import rank_correlation
from cutaway.interp.result import Result
from cutaway.interp.rows import model_of
from cutaway.interp.sae import Dictionary
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import table, token_label
from cutaway.runtime import seeded_generator
from cutaway.weights import model_sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Interventions", "intervene", "pool"]

_LEVELS: tuple[Held, ...] = get_args(Held)
_N_SHOWN, _N_SHUFFLES = 12, 1000
_MUCH_LOST = 0.1
_FROZEN_SAID: dict[Frozen, str] = {
    "both": "attention patterns and norms frozen and ", "patterns": "attention patterns frozen and ", "nothing": "",
}  # fmt: skip
_THROUGHOUT: dict[Frozen, str] = {
    "both": "", "patterns": "Norms respond throughout", "nothing": "Norms and attention patterns respond throughout",
}  # fmt: skip
_CAUSES: dict[Held, str] = {
    "gates": "other features of the graph respond",
    "attention": "features start and stop firing",
    "patterns": "norms respond",
    "errors": "attention patterns respond",
    "nothing": "the model's own MLPs stand in the place of transcoders and errors",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interventions(Result):
    """What scaling each of some features does to a logit less the mean over the vocabulary, by the graph and in runs."""

    title: ClassVar[str] = "Interventions on an attribution graph"
    source: ClassVar[str] = 'Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"'

    labels: tuple[str, ...]
    """Of the features."""
    target: str
    factor: float
    frozen: Frozen
    """What the graph's edges hold."""
    direct: Float[Tensor, " change"]
    """The logit's change by the graph, with other features held."""
    predicted: Float[Tensor, " change"]
    """The same on all paths, with features that respond."""
    measured: dict[Held, Float[Tensor, " change"]]
    """In runs, by what stays as it was."""
    random: Float[Tensor, " change"]
    """In the model, of random directions as long as what the features write, at their places."""
    n_left_out: int = 0
    """How many active features are no nodes of the graph: held with features that fire, they respond from the next level on."""

    @property
    def levels(self) -> tuple[Held, ...]:
        """The levels that differ: what the graph's edges go through responds in all of them."""
        same: dict[Frozen, tuple[Held, ...]] = {"both": (), "patterns": ("patterns",), "nothing": ("patterns", "errors")}
        return tuple(held for held in _LEVELS if held not in same[self.frozen])

    def correlation(self, held: Held = "nothing") -> float | None:
        """Return Pearson's correlation between prediction and run over the features; None where either is the same for all."""
        return _correlation(self._prediction(held), self.measured[held])

    def rank_correlation(self, held: Held = "nothing") -> float | None:
        """Return Spearman's."""
        return rank_correlation(self._prediction(held), self.measured[held])

    def slope(self, held: Held = "nothing") -> float | None:
        """Return by how much runs change where the prediction does by 1: the line of least squares."""
        x, y = self._prediction(held).double(), self.measured[held].double()
        variance = (x - x.mean()).square().sum().item()
        return None if variance == 0 else ((x - x.mean()) @ (y - y.mean())).item() / variance

    def largest_gap(self, held: Held = "features") -> float:
        """Return how far prediction and run are apart at most."""
        return (self._prediction(held) - self.measured[held]).abs().max().item()

    @property
    def random_correlation(self) -> float | None:
        """Pearson's between the predictions for features and what random directions do in their place."""
        return _correlation(self.predicted, self.random)

    @property
    def relative_size(self) -> float:
        """How many times as much features do as random directions, in the model, by the root of the mean square."""
        ratio: Tensor = self.measured["nothing"].double().norm() / self.random.double().norm().clamp_min(1e-300)
        return ratio.item()

    @cached_property
    def shuffled(self) -> float | None:
        """The size of correlation with the model's runs that 95 % of a thousand shuffles of the predictions stay below."""
        if self.correlation() is None:
            return None
        x, y = (each.double().cpu() - each.double().cpu().mean() for each in (self.predicted, self.measured["nothing"]))
        generator = seeded_generator(0)
        orders = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(_N_SHUFFLES)])
        found: Tensor = x[orders] @ y / (x.norm() * y.norm())
        return found.abs().quantile(0.95).item()

    def _prediction(self, held: Held) -> Float[Tensor, " change"]:
        return self.direct if held == "features" else self.predicted

    def summary(self) -> str:
        """Return how well the graph predicts what runs give, where the gap comes from, and the null."""
        what = "ablated" if self.factor == 0 else f"multiplied with {self.factor:g}"
        n = len(self.labels)
        return (
            f"{n} feature{'s are' if n > 1 else ' is'} {what}{' one at a time' if n > 1 else ''}, and the {self.target} changes. With "
            f"{_FROZEN_SAID[self.frozen]}the same features firing the graph is off by {self.largest_gap('gates'):.2g} "
            f"at most{self._left_out_said()}. {self._loss()}In the model itself prediction and change correlate at "
            f"{_number(self.correlation())} (ranks {_number(self.rank_correlation())}, slope {_number(self.slope())}); 95 % of "
            "shuffled predictions stay below "
            f"{_number(self.shuffled)}, and for random directions of the same lengths at the same places it is "
            f"{_number(self.random_correlation)}, which change the logit {_times(self.relative_size)}."
        )

    def _left_out_said(self) -> str:
        n = self.n_left_out
        return f", the {n:,} active feature{'s' * (n != 1)} held that the graph leaves out, which respond after that" if n else ""

    def _loss(self) -> str:
        """Return where most of the correlation is lost, if much of it is."""
        found = [(self.correlation(held) or 0.0) for held in _LEVELS]
        drops = {held: before - after for held, before, after in zip(_LEVELS[1:], found, found[1:], strict=False)}
        worst = max(drops, key=lambda held: drops[held])
        if drops[worst] < _MUCH_LOST:
            return ""
        taken_in = " (a graph with frozen='patterns' takes them in)" if worst == "patterns" and self.frozen == "both" else ""
        left_out = ", and those respond that the graph leaves out" if worst == "attention" and self.n_left_out else ""
        return f"Most is lost once {_CAUSES[worst]}{left_out}{taken_in}. "

    def to_dict(self) -> dict[str, Any]:
        """Return predictions, measurements, how they agree, and the null."""
        return {
            "target": self.target,
            "factor": self.factor,
            "frozen": self.frozen,
            "features": list(self.labels),
            "n_left_out": self.n_left_out,
            "direct": self.direct.tolist(),
            "predicted": self.predicted.tolist(),
            "measured": {held: values.tolist() for held, values in self.measured.items()},
            "random": self.random.tolist(),
            "correlation": {held: self.correlation(held) for held in _LEVELS},
            "rank_correlation": {held: self.rank_correlation(held) for held in _LEVELS},
            "slope": {held: self.slope(held) for held in _LEVELS},
            "largest_gap": {held: self.largest_gap(held) for held in _LEVELS},
            "shuffled_correlation": self.shuffled,
            "random_correlation": self.random_correlation,
            "relative_size": self.relative_size,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return for each feature what the graph says, and what frozen and live runs give."""
        columns = [
            self.direct,
            self.predicted,
            self.measured["gates"],
            self.measured["errors"],
            self.measured["nothing"],
            self.random,
        ]
        rows = [
            [label, *(f"{value:+.3g}" for value in values)]
            for label, *values in zip(self.labels, *(column.tolist() for column in columns), strict=True)
        ]
        return ["feature", "direct", "all paths", "frozen run", "live run", "model", "random"], rows

    def figures(self) -> list[Figure]:
        """Return the model's changes over the predicted ones, with frozen runs and random directions beside them."""
        from cutaway.plots import scatter

        x = self.predicted.tolist()
        series = {"frozen": self.measured["gates"], "the model": self.measured["nothing"], "random": self.random}
        return [
            scatter(
                {name: (x, values.tolist()) for name, values in series.items()},
                title="What the graph predicts and what runs give",
                x_label=f"predicted change of the {self.target}",
                y_label="measured change",
                has_diagonal=True,
            )
        ]

    def views(self) -> list[RenderableType]:
        """Return how prediction and runs agree as more and more may respond, and the strongest features with both."""
        heads = ["correlation", "ranks", "slope", "largest gap"]
        levels = table("what responds", *heads, right=heads, title=_THROUGHOUT[self.frozen])
        for held in self.levels:
            numbers = (self.correlation(held), self.rank_correlation(held), self.slope(held))
            levels.add_row(RESPONDS[held], *map(_number, numbers), f"{self.largest_gap(held):.2g}")
        header, rows = self.table()
        shown = table(*header, right=header[1:], title=f"Change of the {self.target}{_left_out_said(len(rows))}")
        for row in rows[:_N_SHOWN]:
            shown.add_row(*row)
        return [levels, shown]


def _left_out_said(n: int) -> str:
    return f", by {_N_SHOWN} of {n:,} features; --report and --json have all" if n > _N_SHOWN else ""


def pool(found: Sequence[Interventions]) -> Interventions:
    """Return the interventions of several graphs as one; raises ValueError for none, or where the factors differ."""
    if len({(each.factor, each.frozen) for each in found}) != 1:
        raise ValueError("interventions are pooled where factor and what is frozen are one for all: give at least one, all alike")
    return Interventions(
        labels=tuple(label for each in found for label in each.labels),
        target=found[0].target if len({each.target for each in found}) == 1 else "logit",
        factor=found[0].factor,
        frozen=found[0].frozen,
        direct=torch.cat([each.direct for each in found]),
        predicted=torch.cat([each.predicted for each in found]),
        measured={held: torch.cat([each.measured[held] for each in found]) for held in _LEVELS},
        random=torch.cat([each.random for each in found]),
        n_left_out=sum(each.n_left_out for each in found),
    )


def intervene(
    lm: LanguageModel | Transformer,
    graph: AttributionGraph,
    transcoders: Sequence[Dictionary],
    *,
    features: Sequence[tuple[int, int, int]] | None = None,
    n_features: int = 30,
    factor: float = 0.0,
    logit: int = 0,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Interventions:
    """Scale features one at a time, 0 ablates, and hold what happens to a logit against the graph.

    `features` are given as layer, position and number; without them as many are changed as have most influence. `logit` is its place
    among the graph's, `seed` that of the random directions. Active features that are no nodes are constants of the graph: they are
    held where features that fire respond, and respond themselves from the next level on; `n_left_out` counts them.
    Raises ValueError for a graph of another model or of other transcoders, features that are no nodes, and a graph without any.
    """
    model = model_of(lm)
    check_model(graph, model_sha256(model))
    if n_features < 1:
        raise ValueError(f"{n_features} features are to be changed; expected at least 1")
    if not 0 <= logit < len(graph.logits):
        raise ValueError(f"there is no logit {logit} in the graph; there are {len(graph.logits)}")
    tokens = torch.tensor([graph.tokens], device=model.embed.W_E.device)
    replacement = replace_mlps(model, tokens, by_layer(model, transcoders, model_sha256=graph.model_sha256), pos=graph.pos)
    check_transcoders(graph, replacement)
    column = graph.n_features + logit
    changed = graph.strongest_features(n_features)
    if features is not None:
        changed = torch.tensor([graph.place(*each) for each in features], dtype=torch.long, device=changed.device)
    if not len(changed):
        raise ValueError("the graph has no feature to change: none is active on this prompt, or max_features left none")
    directions = _random_directions(replacement, graph, changed, seed)
    measured: dict[Held, list[Tensor]] = {held: [] for held in _LEVELS}
    random = []
    for start, (chunk, other) in enumerate(zip(changed.split(batch_size), directions.split(batch_size), strict=True)):
        for held in _LEVELS:
            measured[held].append(measured_changes(replacement, graph, chunk, factor=factor, held=held)[:, column])
        random.append(measured_changes(replacement, graph, chunk, factor=factor, held="nothing", directions=other)[:, column])
        if progress is not None:
            progress(min((start + 1) * batch_size, len(changed)), len(changed))
    return Interventions(
        labels=tuple(graph.label(graph.nodes[place]) for place in changed.tolist()),
        target=f"logit {token_label(graph.logit_words[logit])}",
        factor=factor,
        frozen=graph.frozen,
        direct=predicted_changes(graph, changed, factor=factor, held="features")[:, column],
        predicted=predicted_changes(graph, changed, factor=factor)[:, column],
        measured={held: torch.cat(each) for held, each in measured.items()},
        random=torch.cat(random),
        n_left_out=graph.n_active - graph.n_features,
    )


def _random_directions(
    replacement: Replacement, graph: AttributionGraph, changed: Int[Tensor, " change"], seed: int
) -> Float[Tensor, "change d_model"]:
    """Return directions drawn evenly from the sphere, as long as what the features write."""
    written = written_by(replacement, graph, changed)
    drawn = torch.randn(written.shape, generator=seeded_generator(seed), dtype=torch.float64).to(written)
    scale: Tensor = written.norm(dim=1) / drawn.norm(dim=1)
    return drawn * scale[:, None]


def _correlation(x: Float[Tensor, " change"], y: Float[Tensor, " change"]) -> float | None:
    pair = torch.stack([x, y]).double()
    return None if any(len(each.unique()) < 2 for each in pair) else torch.corrcoef(pair)[0, 1].item()


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.2f}"


def _times(ratio: float) -> str:
    """Return in words how much less random directions do than features, which do so many times as much."""
    return f"{ratio:.1f} times less" if ratio >= 1 else f"{1 / max(ratio, 1e-300):.1f} times more"
