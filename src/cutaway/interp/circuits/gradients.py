"""The gradient of a metric where receivers read the residual stream, each as if it had a copy of the stream to itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS, Hook, Hooks, replacing
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.rows import RowsToScore
from cutaway.interp.factored import block_of
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import Node
from cutaway.interp.sweep.lanes import Entry
from cutaway.model import Block, GatedMLP, Transformer

__all__ = ["Place", "StreamGradients", "places_of", "stream_gradients", "stream_name"]


@dataclass(frozen=True)
class Place:
    """Where receivers read the stream together: before a layer's attention, before its MLP, or at the end."""

    first: Node
    columns: slice
    """Which receivers of the graph they are."""
    n_senders: int
    """How many of the graph's senders have written by then: the first so many."""


def places_of(graph: Graph) -> Iterator[Place]:
    """Yield the places where receivers read, in the order of the computation."""
    start = 0
    for _, together in groupby(graph.receivers, key=lambda node: node.order):
        nodes = list(together)
        yield Place(nodes[0], slice(start, start + len(nodes)), int(graph.has_edge[:, start].sum()))
        start += len(nodes)


@dataclass(frozen=True, eq=False)
class StreamGradients:
    """One run's residual stream, and a metric's gradient with respect to what receivers make of it first."""

    model: Transformer
    graph: Graph
    streams: Mapping[str, Float[Tensor, "batch pos d_model"]]
    grads: Mapping[str, Float[Tensor, "batch pos ..."]]
    """By queries, keys and values before they turn, by what enters the MLPs' neurons, by the output of MLPs that are taken apart,
    and by the last residual stream."""
    scales: Mapping[str, Float[Tensor, "batch pos 1"]]
    """Those of the norms that are held."""
    start: int
    """Where in a row its positions begin."""

    def by_place(
        self, places: Sequence[Place], kept: Int[Tensor, " kept_pos"]
    ) -> Iterator[tuple[Place, Float[Tensor, "receiver batch kept_pos d_model"]]]:
        """Yield the gradient with respect to each receiver's own copy of the stream, for all that the run came by.

        It goes back through the receiver's matrices, and through its norm by that norm's own derivative.
        """
        kept = kept - self.start
        for place in places:
            receiver = place.first
            if receiver.kind == "logits":
                yield place, self.grads["stream"][None, :, kept]
            elif (stream := stream_name(self.model.config, receiver)) in self.streams:
                block = block_of(self.model, receiver.layer)
                if receiver.kind == "mlp":
                    read = self._by_mlp(block, receiver.layer, kept)
                    whole = self._through_norm(block, stream, kept, read, before_mlp=not block.is_parallel)
                    features = self.graph.features_of(receiver.layer)
                    yield place, whole if features is None else self._taken_apart(block, features, stream, kept, whole)
                else:
                    read = self._by_heads(block, receiver.layer, kept)
                    yield place, self._through_norm(block, stream, kept, read, before_mlp=False)

    def _by_heads(self, block: Block, layer: int, kept: Tensor) -> Float[Tensor, "receiver batch kept_pos d_model"]:
        attn, found = block.attn, []
        for part, matrix in (("q", attn.W_Q), ("k", attn.W_K), ("v", attn.W_V)):
            grad = self.grads[f"blocks.{layer}.attn.{part}"][:, kept]
            weight = matrix.weight.unflatten(0, grad.shape[2:])
            found.append(einsum(grad, weight, "batch pos head d_head, head d_head d_model -> head batch pos d_model"))
        return torch.cat(found)

    def _by_mlp(self, block: Block, layer: int, kept: Tensor) -> Float[Tensor, "receiver batch kept_pos d_model"]:
        mlp, scope = block.mlp, f"blocks.{layer}.mlp."
        assert mlp is not None
        pre = self.grads[f"{scope}pre"][:, kept]
        if not isinstance(mlp, GatedMLP):
            return (pre @ mlp.W_in.weight)[None]
        return (pre @ mlp.W_gate.weight + self.grads[f"{scope}pre_linear"][:, kept] @ mlp.W_in.weight)[None]

    def _taken_apart(
        self, block: Block, features: FeatureNodes, stream: str, kept: Tensor, whole: Float[Tensor, "1 batch kept_pos d_model"]
    ) -> Float[Tensor, "receiver batch kept_pos d_model"]:
        """Return the gradient of the rest of an MLP and of each of its features, which together are that of the whole."""
        grad = self.grads[f"blocks.{features.layer}.mlp_out"][:, kept]
        with torch.enable_grad():
            x = self.streams[stream][:, kept].detach().requires_grad_()
            latents = features.latents(block, x, scale=self._held(stream, kept, before_mlp=not block.is_parallel))
        towards = grad.to(latents) @ features.directions.to(latents).mT  # batch kept_pos feature
        each = torch.diag_embed(towards, dim1=0, dim2=-1)  # feature batch kept_pos feature
        by_feature = torch.autograd.grad(latents, x, each, is_grads_batched=True)[0]
        return torch.cat([whole - by_feature.sum(0), by_feature])

    def _held(self, stream: str, kept: Tensor, *, before_mlp: bool) -> Tensor | None:
        scope, _, _ = stream.rpartition(".")
        scale = self.scales.get(f"{scope}.{'ln2' if before_mlp else 'ln1'}.scale")
        return None if scale is None else scale[:, kept]

    def _through_norm(
        self, block: Block, stream: str, kept: Tensor, grad: Float[Tensor, "receiver batch kept_pos d_model"], *, before_mlp: bool
    ) -> Float[Tensor, "receiver batch kept_pos d_model"]:
        norm = block.ln2 if before_mlp else block.ln1
        assert norm is not None
        scale = self._held(stream, kept, before_mlp=before_mlp)
        held = NO_HOOKS if scale is None else replacing({"scale": scale})
        with torch.enable_grad():
            x = self.streams[stream][:, kept].detach().requires_grad_()
            normed = norm(x, hooks=held)
        return torch.autograd.grad(normed, x, grad, is_grads_batched=True)[0]


def stream_name(config: ModelConfig, receiver: Node) -> str:
    """Return the activation that a head or an MLP reads."""
    is_mid = receiver.kind == "mlp" and config.block == "sequential"
    return f"blocks.{receiver.layer}.resid_{'mid' if is_mid else 'pre'}"


def stream_gradients(rows: RowsToScore, stream: Float[Tensor, "lane pos d_model"], entry: Entry) -> StreamGradients:
    """Run from a residual stream on and return the metric's gradients there, from the first position on that may differ.

    The stream is that of several runs of the rows, one after another, before the layer of `entry`, or with half=1 before its MLP.
    """
    runs, n_runs = rows.runs, len(stream) // len(rows.runs.tokens)
    scales = {name: runs.cache[name][:, rows.start :].repeat(n_runs, 1, 1) for name in rows.frozen}
    streams: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    def see(x: Tensor, name: str) -> None:
        (streams if name.rpartition(".")[2].startswith("resid") else read)[name] = x

    functions: dict[str, Hook] = dict.fromkeys(_seen(rows.graph, runs.model.config), see)
    functions |= {name: lambda _x, _name, scale=scale: scale for name, scale in scales.items()}  # type: ignore[misc]
    with torch.enable_grad():
        x = stream[:, rows.start :].detach().clone().requires_grad_()
        x = _run(rows, x, entry, n_runs, Hooks(functions))
        read["stream"] = x
        before = runs.cache[f"blocks.{runs.model.config.n_layers - 1}.resid_post"][:, : rows.start].repeat(n_runs, 1, 1)
        scale = runs.cache["ln_final.scale"] if "ln_final.scale" in rows.frozen else None
        total = rows.metric.total(runs.model, torch.cat([before, x], dim=1), scale)
    grads = torch.autograd.grad(total, list(read.values()), materialize_grads=True)
    seen = {name: x.detach() for name, x in streams.items()}
    return StreamGradients(runs.model, rows.graph, seen, dict(zip(read, grads, strict=True)), scales, rows.start)


def _run(rows: RowsToScore, x: Tensor, entry: Entry, n_runs: int, hooks: Hooks) -> Tensor:
    """Return what enters the unembedding."""
    model, layer = rows.runs.model, entry.layer
    if entry.half == 1:
        x = block_of(model, layer).add_mlp(x, hooks=hooks.at("blocks", layer))
        layer += 1
    layers = range(layer, model.config.n_layers)
    positions = torch.arange(rows.start, rows.start + x.shape[1], device=x.device)
    return model.run_blocks(x, layers, positions=positions, kv=rows.prefix(n_runs), hooks=hooks) if layers else x


def _seen(graph: Graph, config: ModelConfig) -> list[str]:
    parts = ["resid_pre", "attn.q", "attn.k", "attn.v"]
    if config.d_mlp:
        parts += [
            "mlp.pre",
            *(["mlp.pre_linear"] if config.gated_mlp else []),
            *(["resid_mid"] if config.block == "sequential" else []),
        ]
    taken_apart = [f"blocks.{each.layer}.mlp_out" for each in graph.features]
    return [*(f"blocks.{layer}.{part}" for layer in range(config.n_layers) for part in parts), *taken_apart]
