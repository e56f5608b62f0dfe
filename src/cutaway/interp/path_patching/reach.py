"""The first pass of path patching: what each receiver's input becomes when one sender's output comes from another run.

All other heads are held where they were. So attention carries nothing on, and what a sender changes stays at its position: its own
output, and with MLPs recomputed what they make of it. The residual stream is moved by that much, exactly, and only norms, MLPs and the
receivers' own matrices need be computed, for many senders at once, and at those positions alone that are moved and read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks
from cutaway.interp.factored import block_of
from cutaway.interp.feature_changes import change_of_mlp
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import Node
from cutaway.interp.two_runs import TwoRuns
from cutaway.model import Block, Transformer

__all__ = ["MLPs", "received", "place_of", "names_of_receivers", "names_of_senders", "names_on_the_way"]

MLPs = Literal["frozen", "recomputed"]
"""Whether MLPs between sender and receiver are held where they were, or recomputed from what the sender changed."""

_Moved = Float[Tensor, "sender batch kept_pos d_model"]


def names_of_senders(senders: Sequence[Node], features: Mapping[int, FeatureNodes]) -> set[str]:
    """Return the activations that senders write, and those that encoders read where MLPs are taken apart."""
    read = {features[each.layer].reads for each in senders if each.kind in ("mlp", "feature") and each.layer in features}
    return set(map(_written_name, senders)) | read


def names_of_receivers(receivers: Sequence[Node], n_layers: int) -> set[str]:
    """Return the activations that pass 2 puts in: a head's queries, keys or values, an MLP's output, the last residual stream."""
    return {_name_of(each, n_layers) for each in receivers}


def place_of(receiver: Node, config: ModelConfig) -> int | None:
    """Return which head of its activation's own axis, or which neuron, a receiver is; None for one that is all of it, as a feature."""
    if receiver.kind == "feature":
        return None
    if receiver.kind == "head" and receiver.input in ("k", "v"):
        return (receiver.index or 0) // (config.n_heads // config.n_kv_heads)
    return receiver.index


def names_on_the_way(model: Transformer, frozen: Sequence[str], features: Mapping[int, FeatureNodes]) -> set[str]:
    """Return the activations of the run that the pass starts from."""
    config = model.config
    names = {f"blocks.{layer}.resid_pre" for layer in range(config.n_layers)} | {
        f"blocks.{config.n_layers - 1}.resid_post",
        *frozen,
        *(each.reads for each in features.values()),
    }
    if config.d_mlp:
        names |= {f"blocks.{layer}.mlp_out" for layer in range(config.n_layers)}
    if config.d_mlp and config.block == "sequential":
        names |= {f"blocks.{layer}.resid_mid" for layer in range(config.n_layers)}
    return names | ({"pos_embed"} if config.position == "attention_only" else set())


@torch.no_grad()
def received(
    runs: TwoRuns,
    senders: Sequence[Node],
    receivers: Sequence[Node],
    *,
    wanted: Mapping[Node, Bool[Tensor, " sender"]],
    mlps: MLPs,
    frozen: Sequence[str],
    kept: Int[Tensor, " kept_pos"],
    features: Mapping[int, FeatureNodes],
) -> Iterator[tuple[Node, Sequence[int], Float[Tensor, "wanted_sender batch kept_pos ..."]]]:
    """Yield each receiver with its inputs for those senders, in the order of the computation, that are wanted for it.

    Senders that write after the receiver reads are left out. A head's or a group's input is its q, k or v; an MLP's stands as the
    output that it has for it, a feature's as that of the whole MLP with the feature's part in it, a neuron's as its activation; the
    logits' as the last residual stream. `kept` are the positions that are computed. Nothing is changed, bit for bit, at positions that
    the sender does not move.
    """
    scales = {name: runs.cache[name][:, kept] for name in frozen}
    walk = _Walk(runs, kept, Hooks({name: _held(scale) for name, scale in scales.items()}), scales, features)
    queue = list(senders)

    def with_senders(moved: _Moved, order: tuple[int, int]) -> Float[Tensor, "later_sender batch kept_pos d_model"]:
        """Return the moves of the stream with those of the senders that write now after them."""
        while queue and queue[0].order <= order:
            moved = torch.cat([moved, walk.written(queue.pop(0))[None]])
        return moved

    def inputs(
        here: Sequence[Node], read: Callable[[Node, _Moved, _Moved], Tensor], normed: _Moved, moved: _Moved
    ) -> Iterator[tuple[Node, Sequence[int], Tensor]]:
        for each in here:
            sent = wanted[each][: len(moved)].nonzero()[:, 0].to(moved.device)
            if len(sent):
                some = (x if len(sent) == len(x) else x[sent] for x in (normed, moved))
                yield each, sent.tolist(), read(each, *some)

    stream = walk.base("blocks.0.resid_pre")
    moved = with_senders(stream.new_zeros(0, *stream.shape), (-1, 0))
    for layer in range(runs.model.config.n_layers):
        block = block_of(runs.model, layer)
        here = [each for each in receivers if each.layer == layer]
        before, normed = moved, walk.normed(block, layer, moved)
        yield from inputs(
            [each for each in here if each.kind in ("head", "group")], partial(walk.head_input, block), normed, before
        )
        moved = with_senders(moved, (layer, 0))
        mlp_receivers = [each for each in here if each.kind in ("mlp", "neuron", "feature")]
        if block.mlp is not None and (mlps == "recomputed" or mlp_receivers):
            if not block.is_parallel:
                before, normed = moved, walk.normed(block, layer, moved, half=1)
            yield from inputs(mlp_receivers, partial(walk.mlp_output, block), normed, before)
            if mlps == "recomputed":
                change = walk.whole_mlp(block, layer, normed, before) - walk.base(f"blocks.{layer}.mlp_out")
                moved = torch.cat([before + change, moved[len(before) :]])  # in parallel this layer's heads come after its MLP
        moved = with_senders(moved, (layer, 1))
    logits = [each for each in receivers if each.kind == "logits"]
    end = walk.base(f"blocks.{len(runs.model.blocks) - 1}.resid_post")
    yield from inputs(logits, lambda _each, _normed, moved: end + moved, moved, moved)


@dataclass(frozen=True)
class _Walk:
    """What is computed on the way, from the run's stream and by how much each sender moved it."""

    runs: TwoRuns
    kept: Int[Tensor, " kept_pos"]
    hooks: Hooks
    """Those that hold the scales of frozen norms."""
    scales: Mapping[str, Float[Tensor, "batch kept_pos 1"]]
    """The same scales, by name."""
    features: Mapping[int, FeatureNodes]
    """By the layer of an MLP that is taken apart."""

    def base(self, name: str) -> Float[Tensor, "batch kept_pos ..."]:
        """Return the run's own activation."""
        return self.runs.cache[name][:, self.kept]

    def written(self, sender: Node) -> Float[Tensor, "batch kept_pos d_model"]:
        """Return by how much the sender moves the stream itself."""
        if sender.kind in ("mlp", "feature"):
            return change_of_mlp(self.runs, self.features.get(sender.layer), sender)[:, self.kept]
        moved = self.runs.moved(_written_name(sender))[:, self.kept]
        if sender.kind == "embed":
            return moved
        block = block_of(self.runs.model, sender.layer)
        assert sender.index is not None
        if sender.kind == "neuron":
            assert block.mlp is not None
            return moved[..., sender.index, None] * block.mlp.W_out.weight[:, sender.index]
        columns = _rows(sender.index, moved.shape[-1])
        return moved[..., sender.index, :] @ block.attn.W_O.weight[:, columns].mT

    def normed(self, block: Block, layer: int, moved: _Moved, *, half: int = 0) -> _Moved:
        """Return what attention, or with half=1 the MLP, reads of the moved stream."""
        norm, part = (block.ln1, "ln1") if half == 0 else (block.ln2, "ln2")
        stream = self.base(f"blocks.{layer}.resid_{'pre' if half == 0 else 'mid'}")
        return norm(stream + moved, hooks=self.hooks.at("blocks", layer, part))  # type: ignore[misc, no-any-return]

    def head_input(
        self, block: Block, receiver: Node, normed: _Moved, moved: _Moved
    ) -> Float[Tensor, "sender batch kept_pos d_head"]:
        """Return the head's queries, or the keys or values that it has or shares."""
        attn, head = block.attn, place_of(receiver, self.runs.model.config)
        assert head is not None
        if receiver.input != "v" and self.runs.model.qk_positions is not None:
            normed = normed + self.runs.cache["pos_embed"][..., self.kept, :]
        writer = {"q": attn.W_Q, "k": attn.W_K, "v": attn.W_V}[receiver.input or "q"]
        rows = _rows(head, attn.d_head)
        new = F.linear(normed, writer.weight[rows], None if writer.bias is None else writer.bias[rows])
        return _where_moved(moved, new, self.base(_name_of(receiver))[..., head, :])

    def mlp_output(self, block: Block, receiver: Node, normed: _Moved, moved: _Moved) -> Float[Tensor, "sender batch kept_pos ..."]:
        """Return the MLP's output where one part of it reads the moved stream, or its neuron's activation."""
        assert block.mlp is not None
        if receiver.kind == "neuron":
            post: dict[str, Tensor] = {}
            block.mlp(normed, hooks=Hooks({"post": lambda x, name: post.update({name: x})}))
            return _where_moved(moved, post["post"], self.base(f"blocks.{receiver.layer}.mlp.post"))[..., receiver.index]
        features = self.features.get(receiver.layer)
        if features is None:
            return self.whole_mlp(block, receiver.layer, normed, moved)
        norm, stream = ("ln1", "resid_pre") if block.is_parallel else ("ln2", "resid_mid")
        scope, chosen = f"blocks.{receiver.layer}", None if receiver.kind == "mlp" else [receiver.index or 0]
        resid, scale = self.base(f"{scope}.{stream}") + moved, self.scales.get(f"{scope}.{norm}.scale")
        output = block.mlp(normed) if receiver.kind == "mlp" else None
        latents = features.latents(block, resid, chosen, scale=scale, output=output)
        latents = latents - features.latents_of(self.base(features.reads), chosen)
        base = self.base(f"{scope}.mlp_out")
        if output is not None:
            return _where_moved(moved, (output - features.written(latents)).to(base.dtype), base)
        change = latents * features.directions[features.features.index(receiver.index or 0)].to(latents)
        return _where_moved(moved, (base + change).to(base.dtype), base)

    def whole_mlp(self, block: Block, layer: int, normed: _Moved, moved: _Moved) -> Float[Tensor, "sender batch kept_pos d_model"]:
        """Return the MLP's output where all of it reads the moved stream."""
        assert block.mlp is not None
        return _where_moved(moved, block.mlp(normed), self.base(f"blocks.{layer}.mlp_out"))


def _where_moved(
    moved: _Moved, new: Float[Tensor, "sender batch kept_pos d"], base: Float[Tensor, "batch kept_pos d"] | int
) -> Tensor:
    return torch.where((moved != 0).any(-1, keepdim=True), new, base)


def _held(scale: Float[Tensor, "batch kept_pos 1"]) -> Hook:
    return lambda x, _name: scale.expand_as(x)


def _rows(head: int, d_head: int) -> slice:
    return slice(head * d_head, (head + 1) * d_head)


def _written_name(sender: Node) -> str:
    parts = {"head": "attn.z", "mlp": "mlp_out", "feature": "mlp_out", "neuron": "mlp.post"}
    return "embed" if sender.kind == "embed" else f"blocks.{sender.layer}.{parts[sender.kind]}"


def _name_of(receiver: Node, n_layers: int = 0) -> str:
    match receiver.kind:
        case "head" | "group":
            return f"blocks.{receiver.layer}.attn.{receiver.input}"
        case "mlp" | "feature":
            return f"blocks.{receiver.layer}.mlp_out"
        case "neuron":
            return f"blocks.{receiver.layer}.mlp.post"
    return f"blocks.{n_layers - 1}.resid_post"
