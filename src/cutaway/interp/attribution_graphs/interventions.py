"""Features changed in a run, beside what the graph says will come of it.

The run has transcoders spliced in, with their errors. A graph predicts two things of a feature scaled at its position. Directly, with
all other features held, a target moves by `(factor - 1) edge`. In all, with features that respond, it moves by the sum over all paths,
each feature on the way changing by as much as its pre-activation does: exact as long as none starts or stops firing. Attention patterns
and norms that respond are what no graph has; a run with nothing held shows what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.replacement import Replacement, Stream, by_layer, replace_mlps
from cutaway.interp.ranks import rank_correlation
from cutaway.interp.result import Result
from cutaway.interp.rows import model_of
from cutaway.interp.sae import Dictionary
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import table, token_label
from cutaway.weights import model_sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Held", "Interventions", "intervene", "predicted_changes", "measured_changes", "check_model"]

Held = Literal["features", "attention", "nothing"]
"""What stays as it was: other features, patterns and norms; patterns and norms; nothing, MLPs without a transcoder included."""

_N_SHOWN = 12


@torch.no_grad()
def predicted_changes(
    graph: AttributionGraph, features: Int[Tensor, " change"], *, factor: float = 0.0, held: Held = "attention"
) -> Float[Tensor, "change target"]:
    """Return how far each target moves, by the graph, when one feature is multiplied with `factor`: directly, or on all paths.

    Targets are those of the graph: pre-activations, and logits less their mean.
    """
    n, values = graph.n_features, graph.activations
    moved = torch.zeros(len(features), n, dtype=values.dtype, device=values.device)  # of each feature, as a share of it
    moved[torch.arange(len(features)), features] = factor - 1
    total = moved @ graph.edges[:, :n].T
    if held == "features":
        return total
    arriving = total
    for _ in range(graph.n_layers):
        arriving = (arriving[:, :n] / values) @ graph.edges[:, :n].T
        total = total + arriving
    return total


@torch.no_grad()
def measured_changes(
    replacement: Replacement,
    graph: AttributionGraph,
    features: Int[Tensor, " change"],
    *,
    factor: float = 0.0,
    held: Held = "attention",
) -> Float[Tensor, "change target"]:
    """Return how far each target moves in a run in which one feature is multiplied with `factor` at its position, errors held."""
    places = graph.features[features]
    rows = torch.arange(len(features), device=places.device)

    def write(layer: int, read: Tensor | None, mlp_out: Tensor) -> Tensor:
        error = replacement.errors[layer]
        if read is None:
            return mlp_out if held == "nothing" else error.expand_as(mlp_out)
        transcoder, plain = replacement.transcoders[layer], replacement.latents[layer]
        latents = plain.repeat(len(features), 1, 1) if held == "features" else transcoder.encode(read)
        here = rows[places[:, 0] == layer]
        at = places[here]
        latents[here, at[:, 1], at[:, 2]] = factor * plain[0, at[:, 1], at[:, 2]]
        return transcoder.reconstruct(read, latents) + error

    start = replacement.start.expand(len(features), -1, -1)
    stream = replacement.run(start, write, is_held=held != "nothing")
    return _read(replacement, graph, stream) - graph.values


def _read(replacement: Replacement, graph: AttributionGraph, stream: Stream) -> Float[Tensor, "change target"]:
    found = []
    for layer, transcoder in replacement.transcoders.items():
        places = graph.features[graph.features[:, 0] == layer]
        found.append(transcoder.pre_activations(stream.reads[layer])[:, places[:, 1], places[:, 2]])
    logits = replacement.model.unembed.W_U(stream.normed)[:, 0]
    return torch.cat([*found, logits[:, list(graph.logits)] - logits.mean(1, keepdim=True)], dim=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interventions(Result):
    """What scaling each of the strongest features does to a logit, by the graph and in runs."""

    title: ClassVar[str] = "Interventions on an attribution graph"
    source: ClassVar[str] = 'Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"'

    labels: tuple[str, ...]
    """Of the features."""
    target: str
    factor: float
    predicted: dict[str, Float[Tensor, " change"]]
    """The logit's change by the graph, with other features held and with features that respond."""
    measured: dict[str, Float[Tensor, " change"]]
    """The same in runs, and with nothing held."""

    def correlation(self, held: Held = "nothing") -> float | None:
        """Return Pearson's correlation between prediction and run over the features; None where either is the same for all."""
        pair = torch.stack([self._predicted(held), self.measured[held]]).double()
        return None if any(len(each.unique()) < 2 for each in pair) else torch.corrcoef(pair)[0, 1].item()

    def rank_correlation(self, held: Held = "nothing") -> float | None:
        """Return Spearman's."""
        return rank_correlation(self._predicted(held), self.measured[held])

    def largest_gap(self, held: Held = "features") -> float:
        """Return how far prediction and run are apart at most."""
        return (self._predicted(held) - self.measured[held]).abs().max().item()

    def _predicted(self, held: Held) -> Float[Tensor, " change"]:
        return self.predicted["features" if held == "features" else "attention"]

    def summary(self) -> str:
        """Return how well the graph predicts what runs give."""
        what = "ablated" if self.factor == 0 else f"multiplied with {self.factor:g}"
        return (
            f"{len(self.labels)} features are {what} one at a time, and the {self.target} changes. With other features, attention and "
            f"norms held the graph is off by {self.largest_gap():.2g} at most. With features that respond prediction and run correlate "
            f"at {_number(self.correlation('attention'))} (ranks {_number(self.rank_correlation('attention'))}), with nothing held at "
            f"{_number(self.correlation())} (ranks {_number(self.rank_correlation())})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return predictions, measurements and their correlations."""
        return {
            "target": self.target,
            "factor": self.factor,
            "features": list(self.labels),
            "predicted": {name: values.tolist() for name, values in self.predicted.items()},
            "measured": {name: values.tolist() for name, values in self.measured.items()},
            "correlation": {held: self.correlation(held) for held in get_args(Held)},
            "rank_correlation": {held: self.rank_correlation(held) for held in get_args(Held)},
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return for each feature what the graph says and what runs give."""
        columns = [
            self.predicted["features"], self.measured["features"], self.predicted["attention"], self.measured["attention"],
            self.measured["nothing"],
        ]  # fmt: skip
        rows = [
            [label, *(f"{value:+.3g}" for value in values)]
            for label, *values in zip(self.labels, *(column.tolist() for column in columns), strict=True)
        ]
        return ["feature", "direct", "run", "all paths", "attention held", "nothing held"], rows

    def figures(self) -> list[Figure]:
        """Return prediction and runs side by side, the features by what is predicted."""
        from cutaway.plots import lines

        order = self.predicted["attention"].argsort()
        series = {
            "all paths": self.predicted["attention"], "attention held": self.measured["attention"],
            "nothing held": self.measured["nothing"],
        }  # fmt: skip
        places = list(range(1, len(order) + 1))
        return [
            lines(
                {name: (places, values[order].tolist()) for name, values in series.items()},
                title="What the graph predicts and what runs give",
                x_label="feature, by the prediction",
                y_label=f"change of the {self.target}",
            )
        ]

    def views(self) -> list[RenderableType]:
        """Return the strongest features with prediction and runs."""
        header, rows = self.table()
        shown = table(*header, right=header[1:], title=f"Change of the {self.target}")
        for row in rows[:_N_SHOWN]:
            shown.add_row(*row)
        return [shown]


def intervene(
    lm: LanguageModel | Transformer,
    graph: AttributionGraph,
    transcoders: Sequence[Dictionary],
    *,
    features: Sequence[tuple[int, int, int]] | None = None,
    n_features: int = 20,
    factor: float = 0.0,
    logit: int = 0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Interventions:
    """Scale features one at a time, 0 ablates, and hold what happens to a logit against the graph.

    `features` are given as layer, position and number; without them as many are changed as have most influence. `logit` is its place
    among the graph's. Active features that are no nodes respond in runs and not in predictions. Raises ValueError for a graph of
    another model or of other transcoders, features that are no nodes, and a graph without any.
    """
    model = model_of(lm)
    check_model(graph, model_sha256(model))
    if n_features < 1:
        raise ValueError(f"{n_features} features are to be changed; expected at least 1")
    if not 0 <= logit < len(graph.logits):
        raise ValueError(f"there is no logit {logit} in the graph; there are {len(graph.logits)}")
    tokens = torch.tensor([graph.tokens], device=model.embed.W_E.device)
    replacement = replace_mlps(model, tokens, by_layer(model, transcoders, model_sha256=graph.model_sha256), pos=graph.pos)
    _check_transcoders(graph, replacement)
    column = graph.n_features + logit
    changed = graph.strongest_features(n_features)
    if features is not None:
        changed = torch.tensor([graph.place(*each) for each in features], dtype=torch.long, device=changed.device)
    if not len(changed):
        raise ValueError("the graph has no feature to change: none is active on this prompt, or max_features left none")
    every: tuple[Held, ...] = get_args(Held)
    predicted: dict[str, Tensor] = {
        held: predicted_changes(graph, changed, factor=factor, held=held)[:, column] for held in every[:2]
    }
    measured: dict[str, list[Tensor]] = {held: [] for held in every}
    for start, chunk in enumerate(changed.split(batch_size)):
        for held in every:
            measured[held].append(measured_changes(replacement, graph, chunk, factor=factor, held=held)[:, column])
        if progress is not None:
            progress(min((start + 1) * batch_size, len(changed)), len(changed))
    return Interventions(
        labels=tuple(graph.label(graph.nodes[place]) for place in changed.tolist()),
        target=f"logit {token_label(graph.logit_words[logit])}",
        factor=factor,
        predicted=predicted,
        measured={held: torch.cat(each) for held, each in measured.items()},
    )


def check_model(graph: AttributionGraph, sha256: str) -> None:
    """Raise ValueError for a graph of another model's weights."""
    if graph.model_sha256 != sha256:
        raise ValueError(
            f"the graph is of another model (weights {graph.model_sha256[:12]}) than this ({sha256[:12]}): load that model, or make a "
            "graph of this one"
        )


def _check_transcoders(graph: AttributionGraph, replacement: Replacement) -> None:
    """Raise ValueError where the features are not as the graph has them."""
    found = {layer: each.config.name for layer, each in replacement.transcoders.items()}
    is_same = found == graph.transcoders
    if is_same:
        sizes = [each.config.d_sae for each in replacement.transcoders.values()]
        latents = [replacement.latents[layer][0] for layer in found]
        for layer, (values, size) in zip(found, zip(latents, sizes, strict=True), strict=True):
            places = graph.features[graph.features[:, 0] == layer]
            held = graph.activations[graph.features[:, 0] == layer]
            is_same &= not len(places) or int(places[:, 2].max()) < size
            is_same = is_same and torch.allclose(values[places[:, 1], places[:, 2]], held, rtol=1e-3, atol=1e-5)
    if not is_same:
        raise ValueError("the graph was made with other transcoders: give those, in the folders that it names")


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.2f}"
