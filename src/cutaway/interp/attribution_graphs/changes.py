"""What a feature that is scaled changes: by the graph, and in runs that let more and more of the model respond.

A run has the feature scaled at its position and reads what targets read. What may respond grows from level to level (`Held`):

    features    nothing: what MLPs write is held but for the feature, a target moves by `(factor - 1) edge`
    gates       features of the graph, by as much as what they read: none starts or stops
    attention   features start and stop, and active ones respond that were left out of the graph
    patterns    the scales of norms too
    errors      attention patterns too: all of the run in which transcoders stand in the place of MLPs, and their errors stay
    nothing     the model itself, its own MLPs and no transcoder: what the feature writes is added to it, so many times

The first two are what a graph predicts, and exactly so, as what it leaves out is held in them; patterns and norms that respond are what
no graph has.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.replacement import Frozen, Replacement, Stream

__all__ = ["Held", "RESPONDS", "predicted_changes", "measured_changes", "written_by", "check_model", "check_transcoders"]

Held = Literal["features", "gates", "attention", "patterns", "errors", "nothing"]
"""What stays as it was, the most first."""

RESPONDS: dict[Held, str] = {
    "features": "nothing: the direct effect",
    "gates": "features of the graph that fire",
    "attention": "those that start or stop, too",
    "patterns": "norms too",
    "errors": "attention patterns too",
    "nothing": "the model itself, MLPs and all",
}
"""The levels in words."""

_FROZEN: dict[Held, Frozen] = {"patterns": "patterns", "errors": "nothing", "nothing": "nothing"}
_LOOSER: tuple[Frozen, ...] = get_args(Frozen)


@torch.no_grad()
def predicted_changes(
    graph: AttributionGraph, features: Int[Tensor, " change"], *, factor: float = 0.0, held: Held = "attention"
) -> Float[Tensor, "change target"]:
    """Return how far each target moves, by the graph, when one feature is multiplied with `factor`.

    With features held it is the direct effect, otherwise that on all paths through the graph, which says the same whatever else
    responds. Active features that were left out of the graph (`max_features`) are constants of it, and held in runs up to "gates".
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
    directions: Float[Tensor, "change d_model"] | None = None,
) -> Float[Tensor, "change target"]:
    """Return how far each target moves in a run in which one feature is multiplied with `factor` at its position.

    With nothing held, `directions` may stand for what features write, to be scaled in their place.
    """
    if directions is not None and held != "nothing":
        raise ValueError(f"directions take the place of features in the model itself: hold nothing, and not {held}")
    places = graph.features[features]
    rows = torch.arange(len(features), device=places.device)

    def write(layer: int, read: Tensor | None, mlp_out: Tensor) -> Tensor:
        here = rows[places[:, 0] == layer]
        at = places[here]
        if held == "nothing":
            moved = mlp_out.clone()
            written = _written(replacement, layer, at) if directions is None else directions[here]
            moved[here, at[:, 1]] += (factor - 1) * written
            return moved
        error = replacement.errors[layer]
        if read is None:
            return mlp_out if held == "errors" else error.expand_as(mlp_out)
        transcoder, plain = replacement.transcoders[layer], replacement.latents[layer]
        match held:
            case "features":
                latents = plain.repeat(len(features), 1, 1)
            case "gates":  # above zero all kinds pass on what they read
                latents = transcoder.pre_activations(read).where(_nodes(graph, layer, plain), plain)
            case _:
                latents = transcoder.encode(read)
        latents[here, at[:, 1], at[:, 2]] = factor * plain[0, at[:, 1], at[:, 2]]
        return transcoder.reconstruct(read, latents) + error

    start = replacement.start.expand(len(features), -1, -1)
    frozen = max(graph.frozen, _FROZEN.get(held, "both"), key=_LOOSER.index)
    stream = replacement.run(start, write, frozen=frozen)
    return _read(replacement, graph, stream) - graph.values


def written_by(
    replacement: Replacement, graph: AttributionGraph, features: Int[Tensor, " change"]
) -> Float[Tensor, "change d_model"]:
    """Return what each feature writes."""
    return torch.cat([_written(replacement, int(place[0]), place[None]) for place in graph.features[features]])


def _nodes(graph: AttributionGraph, layer: int, latents: Float[Tensor, "1 pos d_sae"]) -> Bool[Tensor, "1 pos d_sae"]:
    """Return which latents of a layer are nodes of the graph."""
    places = graph.features[graph.features[:, 0] == layer]
    found = torch.zeros_like(latents, dtype=torch.bool)
    found[0, places[:, 1], places[:, 2]] = True
    return found


def _written(replacement: Replacement, layer: int, at: Int[Tensor, "change 3"]) -> Float[Tensor, "change d_model"]:
    if not len(at):
        return replacement.start.new_zeros(0, replacement.start.shape[-1])
    strength = replacement.latents[layer][0, at[:, 1], at[:, 2]]
    return strength[:, None] * replacement.transcoders[layer].W_dec[at[:, 2]]


def _read(replacement: Replacement, graph: AttributionGraph, stream: Stream) -> Float[Tensor, "change target"]:
    found = []
    for layer, transcoder in replacement.transcoders.items():
        places = graph.features[graph.features[:, 0] == layer]
        found.append(transcoder.pre_activations(stream.reads[layer])[:, places[:, 1], places[:, 2]])
    logits = replacement.model.unembed.W_U(stream.normed)[:, 0]
    return torch.cat([*found, logits[:, list(graph.logits)] - logits.mean(1, keepdim=True)], dim=1)


def check_model(graph: AttributionGraph, sha256: str) -> None:
    """Raise ValueError for a graph of another model's weights."""
    if graph.model_sha256 != sha256:
        raise ValueError(
            f"the graph is of another model (weights {graph.model_sha256[:12]}) than this ({sha256[:12]}): load that model, or make a "
            "graph of this one"
        )


def check_transcoders(graph: AttributionGraph, replacement: Replacement) -> None:
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
