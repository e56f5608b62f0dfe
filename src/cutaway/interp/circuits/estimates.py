"""Edge scores from gradients: what each sender changes in the stream, times the gradient where each receiver reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.circuits.gradients import places_of, stream_gradients
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.rows import RowsToScore, keys_name
from cutaway.interp.factored import block_of
from cutaway.interp.feature_changes import change_of_mlp, moved_latents
from cutaway.interp.nodes import Node
from cutaway.interp.sweep.lanes import Entry
from cutaway.interp.two_runs import TwoRuns
from cutaway.model.norms import at_least_float32

__all__ = ["names_to_record", "along_inputs", "along_activations"]

_EMBED = "blocks.0.resid_pre"
"""What the embedding writes, positions included."""


def names_to_record(graph: Graph, config: ModelConfig, frozen: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the activations of the run that scores are computed from, and those of the other run."""
    layers = range(config.n_layers)
    written = {_EMBED} | {f"blocks.{layer}.attn.z" for layer in layers}
    written |= {f"blocks.{layer}.mlp_out" for layer in layers if config.d_mlp} | {each.reads for each in graph.features}
    middle = {f"blocks.{layer}.resid_mid" for layer in layers if config.d_mlp and config.block == "sequential"}
    streams = {f"blocks.{layer}.resid_pre" for layer in layers} | {f"blocks.{config.n_layers - 1}.resid_post"}
    attention = {f"blocks.{layer}.attn.{part}" for layer in layers for part in (keys_name(config), "v")}
    return written | middle | streams | attention | {"embed", *frozen}, written


def along_inputs(
    rows: RowsToScore, shares: Sequence[float], *, done: Callable[[int], None]
) -> Float[Tensor, "batch sender receiver"]:
    """Return the scores with gradients averaged over runs that begin so far on the way from the run's embeddings to the other's.

    A single run at 0 is the first-order estimate. `done` is told of how many runs of the rows are.
    Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"; the line, Hanna et al. 2024, "Have Faith
    in Faithfulness".
    """
    runs, graph, places, scores = rows.runs, rows.graph, list(places_of(rows.graph)), _no_scores(rows)
    if not rows.meetings():
        return scores
    stream, moved = runs.cache[_EMBED], runs.moved(_EMBED)
    for share in shares:
        found = stream_gradients(rows, stream + share * moved, Entry(0, 0))
        for kept in rows.meetings():
            changed = _all_changes(runs, graph, kept).flatten(2)  # batch sender (pos d_model)
            for place, grad in found.by_place(places, kept):
                by_row = at_least_float32(grad).flatten(2).permute(1, 2, 0)  # batch (pos d_model) receiver
                gained = changed[:, : place.n_senders] @ by_row  # batch sender receiver
                scores[:, : place.n_senders, place.columns] += gained / len(shares)
        done(1)
    return scores


def along_activations(
    rows: RowsToScore, shares: Sequence[float], *, done: Callable[[int], None]
) -> Float[Tensor, "batch sender receiver"]:
    """Return the scores with gradients averaged along the line that each sender's output goes, one sender at a time.

    Everything after it is recomputed, so that a sender's scores sum to the effect of patching it whole, as points grow. `done` is told
    of how many runs of the rows are.
    """
    runs, places, scores = rows.runs, list(places_of(rows.graph)), _no_scores(rows)
    config = runs.model.config
    if not rows.meetings():
        return scores
    for entry, together in groupby(enumerate(rows.graph.senders), key=lambda each: _entry(config, each[1])):
        points = [(i, sender, share) for i, sender in together for share in shares]
        for first in range(0, len(points), rows.n_runs):
            lanes = points[first : first + rows.n_runs]
            changed = torch.cat([_change(runs, rows.graph, sender) for _, sender, _ in lanes])  # (lane batch) pos d_model
            moved = torch.cat([share * x for (_, _, share), x in zip(lanes, changed.split(len(scores)), strict=True)])
            found = stream_gradients(rows, runs.cache[_stream(config, entry)].repeat(len(lanes), 1, 1) + moved, entry)
            for kept in rows.meetings():
                for place, grad in found.by_place(places, kept):
                    gained = einsum(changed[:, kept], grad, "lane pos d_model, receiver lane pos d_model -> lane receiver")
                    for (i, _, _), of_lane in zip(lanes, gained.split(len(scores)), strict=True):
                        scores[:, i, place.columns] += of_lane / len(shares)
            done(len(lanes))
    return scores


def _no_scores(rows: RowsToScore) -> Float[Tensor, "batch sender receiver"]:
    shape = len(rows.runs.tokens), len(rows.graph.senders), len(rows.graph.receivers)
    return at_least_float32(rows.runs.cache["embed"]).new_zeros(shape)


def _all_changes(runs: TwoRuns, graph: Graph, kept: Int[Tensor, " kept_pos"]) -> Float[Tensor, "batch sender kept_pos d_model"]:
    """Return what each sender writes in the other run less what it writes in the run, at some positions.

    Heads go through W_O here, once for all receivers; a receiver's gradient would go through that of every layer before it.
    """
    model, config = runs.model, runs.model.config
    embed = at_least_float32(runs.moved(_EMBED)[:, kept])
    changed = embed.new_empty(len(embed), len(graph.senders), *embed.shape[1:])
    changed[:, 0] = embed
    at = 1
    for layer in range(config.n_layers):
        z = runs.moved(f"blocks.{layer}.attn.z")[:, kept]
        by_head = block_of(model, layer).attn.W_O.weight.unflatten(1, z.shape[2:])  # d_model head d_head
        changed[:, at : at + config.n_heads] = einsum(
            z, by_head, "batch pos head d_head, d_model head d_head -> batch head pos d_model"
        )
        at += config.n_heads
        if config.d_mlp:
            changed[:, at] = runs.moved(f"blocks.{layer}.mlp_out")[:, kept]
            at += 1
        if (features := graph.features_of(layer)) is not None:
            latents = moved_latents(runs, features)[:, kept]  # batch kept_pos feature
            changed[:, at - 1] -= features.written(latents)
            n = len(features.features)
            by_feature = latents.movedim(-1, 1)[..., None]  # batch feature kept_pos 1
            changed[:, at : at + n] = by_feature * features.directions.to(latents)[:, None]
            at += n
    return changed


def _change(runs: TwoRuns, graph: Graph, sender: Node) -> Float[Tensor, "batch pos d_model"]:
    """Return what one sender writes in the other run less what it writes in the run."""
    if sender.kind == "embed":
        return runs.moved(_EMBED)
    if sender.kind in ("mlp", "feature"):
        return change_of_mlp(runs, graph.features_of(sender.layer), sender)
    z = runs.moved(f"blocks.{sender.layer}.attn.z")
    by_head = block_of(runs.model, sender.layer).attn.W_O.weight.unflatten(1, z.shape[2:])  # d_model head d_head
    written: Tensor = z[:, :, sender.index] @ by_head[:, sender.index].mT
    return written


def _entry(config: ModelConfig, sender: Node) -> Entry:
    """Return the first computation that reads what a sender writes."""
    if sender.kind == "head" and config.d_mlp and config.block == "sequential":
        return Entry(sender.layer, 1)
    return Entry(sender.layer + 1, 0)


def _stream(config: ModelConfig, entry: Entry) -> str:
    if entry.half == 1:
        return f"blocks.{entry.layer}.resid_mid"
    return f"blocks.{entry.layer}.resid_pre" if entry.layer < config.n_layers else f"blocks.{config.n_layers - 1}.resid_post"
