"""The model with transcoders in the place of its MLPs, their errors added back: it computes what the model does.

    mlp_out = W_dec latents + b_dec + W_skip read + error,    latents = f(W_enc read + b_enc)

With attention patterns and the scales of norms held at their values, and latents and errors given, all else is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks
from cutaway.interp.sae import Dictionary, check_fits
from cutaway.interp.sites import hook_order, site_of
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Frozen", "Replacement", "Stream", "Write", "replace_mlps", "by_layer", "layer_of", "mlp_input"]

Write = Callable[[int, Tensor | None, Tensor], Tensor]
"""What an MLP layer writes: of the layer, of what its transcoder reads (None without one), of what the MLP itself gives."""

Frozen = Literal["both", "patterns", "nothing"]
"""Attention patterns and the scales of norms both, patterns alone, or neither."""

_HELD = ("blocks.*.attn.pattern", "blocks.*.scale", "ln_final.scale")


@dataclass(frozen=True, eq=False)
class Stream:
    """What a run hands to encoders and to the unembedding."""

    reads: dict[int, Float[Tensor, "batch pos d_model"]]
    """By layer, what the transcoder there reads."""
    normed: Float[Tensor, "batch 1 d_model"]
    """The last norm's output at the position whose logits are asked for."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """One prompt's run of a model, taken apart by transcoders."""

    model: Transformer
    """Without dropout."""
    transcoders: Mapping[int, Dictionary]
    """By the layer of the MLP."""
    tokens: Int[Tensor, "1 pos"]
    pos: int
    """The position whose logits are asked for."""
    start: Float[Tensor, "1 pos d_model"]
    """What the stream starts with: each token's embedding, and its position's where that is in the stream."""
    held: Mapping[str, Float[Tensor, "..."]]
    """Attention patterns and the scales of norms, by name."""
    stream: Stream
    latents: Mapping[int, Float[Tensor, "1 pos d_sae"]]
    errors: Mapping[int, Float[Tensor, "1 pos d_model"]]
    """By layer what the MLP gives less what its transcoder predicts; all that it gives, where it has none."""

    def run(self, start: Float[Tensor, "batch pos d_model"], write: Write, *, frozen: Frozen = "both") -> Stream:
        """Return what a run from `start` hands on, MLPs writing as `write` says; what is not frozen is computed anew."""
        names = [each for each in self.held if frozen == "both" or (frozen == "patterns" and each.endswith("attn.pattern"))]
        held = {name: partial(_expanded, self.held[name]) for name in names}
        return _run(self.model, self.transcoders, start, self.pos, write, held)

    def constant(self, layer: int, read: Tensor | None, mlp_out: Tensor) -> Float[Tensor, "batch pos d_model"]:
        """Return what an MLP layer writes without its features and its error: the decoder's bias, and what its skip lets through."""
        if read is None:
            return torch.zeros_like(mlp_out)
        transcoder = self.transcoders[layer]
        return transcoder.reconstruct(read, read.new_zeros(*read.shape[:-1], transcoder.config.d_sae))

    @torch.no_grad()
    def written(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        """Return what a layer's features and error write."""
        error = self.errors[layer]
        return error + self.latents[layer] @ self.transcoders[layer].W_dec if layer in self.transcoders else error.clone()

    @torch.no_grad()
    def biases(self) -> Stream:
        """Return what encoders and unembedding are handed where no node writes: what biases alone come to."""
        return self.run(torch.zeros_like(self.start), self.constant)


@torch.no_grad()
def replace_mlps(
    model: Transformer, tokens: Int[Tensor, "1 pos"], transcoders: Mapping[int, Dictionary], *, pos: int = -1
) -> Replacement:
    """Run one prompt and take it apart; raises ValueError for a position that is not there."""
    n_pos = tokens.shape[1]
    if not -n_pos <= pos < n_pos:
        raise ValueError(f"there is no position {pos}; the prompt has {n_pos} tokens, 0 to {n_pos - 1}")
    held: dict[str, Tensor] = {}
    latents: dict[int, Tensor] = {}
    errors: dict[int, Tensor] = {}

    def keep(x: Tensor, name: str) -> None:
        held[name] = x

    def take_apart(layer: int, read: Tensor | None, mlp_out: Tensor) -> Tensor:
        errors[layer] = mlp_out
        if read is not None:
            latents[layer] = transcoders[layer].encode(read)
            errors[layer] = mlp_out - transcoders[layer].reconstruct(read, latents[layer])
        return mlp_out

    model = without_dropout(model)
    start = model.embed(tokens)
    stream = _run(model, transcoders, start, pos % n_pos, take_apart, dict.fromkeys(_HELD, keep))
    return Replacement(model, transcoders, tokens, pos % n_pos, start, held, stream, latents, errors)


def by_layer(model: Transformer, transcoders: Sequence[Dictionary], *, model_sha256: str | None = None) -> dict[int, Dictionary]:
    """Return transcoders by their layer.

    Raises ValueError for a model in 16 bits, for no transcoder at all, two of one layer, a dictionary that predicts no MLP's output
    from what comes before it in its layer, one that does not fit the model, and one of another dtype or device.
    """
    if model.embed.W_E.element_size() < 4:
        raise ValueError(
            f"edges are small numbers that add up, and the model is {model.embed.W_E.dtype}: convert it with its float()"
        )
    found: dict[int, Dictionary] = {}
    for each in transcoders:
        layer = layer_of(model, each)
        if layer in found:
            raise ValueError(f"two transcoders are for layer {layer}: give one for each layer")
        check_fits(each, model, model_sha256=model_sha256)
        ours, theirs = model.embed.W_E, each.W_enc
        if (ours.dtype, ours.device) != (theirs.dtype, theirs.device):
            raise ValueError(
                f"the transcoder of layer {layer} is {theirs.dtype} on {theirs.device} and the model {ours.dtype} on {ours.device}: "
                "convert it with its `to`"
            )
        if each.training and each.config.kind == "batchtopk":
            raise ValueError(
                f"the transcoder of layer {layer} is in training mode, where prompts change each other: call its eval()"
            )
        found[layer] = each
    if not found:
        raise ValueError("a graph of features needs transcoders: give at least one, of one MLP layer")
    return dict(sorted(found.items()))


def mlp_input(config: ModelConfig) -> str:
    """Return which activation of a layer its MLP reads, by its last words, as a transcoder reads it too."""
    return "resid_pre" if config.norm == "none" else "ln1.normalized" if config.block == "parallel" else "ln2.normalized"


def layer_of(model: Transformer, dictionary: Dictionary) -> int:
    """Return the layer of the MLP that a dictionary stands for; raises ValueError for one that predicts no MLP's output."""
    config, order = dictionary.config, hook_order(model.config)
    target = site_of(config.target or "")
    reads = site_of(config.name)
    if not config.is_transcoder or target.part != "mlp_out" or target.name not in order:
        raise ValueError(
            f"the dictionary of {config.name or 'an activation that it does not name'} predicts no MLP's output of this model: give a "
            "transcoder, as one trains by "
            f"`cutaway interpret sae train MODEL --site {mlp_input(model.config)} --target mlp_out --corpus TEXT --save FOLDER`"
        )
    assert target.layer is not None
    is_before = reads.layer == target.layer and reads.name in order and not reads.part.startswith("mlp")
    if not is_before or reads.axes[2:] != ("d_model",) or reads.part == "resid_post":
        raise ValueError(
            f"the transcoder of layer {target.layer} reads {config.name}: expected what the stream holds before the MLP of its layer, "
            "as ln2.normalized or resid_mid"
        )
    return target.layer


def _run(
    model: Transformer,
    transcoders: Mapping[int, Dictionary],
    start: Float[Tensor, "batch pos d_model"],
    pos: int,
    write: Write,
    others: Mapping[str, Hook],
) -> Stream:
    reads: dict[int, Tensor] = {}

    def read(layer: int, x: Tensor, _name: str) -> None:
        reads[layer] = x

    def written(layer: int, x: Tensor, _name: str) -> Tensor:
        return write(layer, reads.get(layer), x)

    functions: dict[str, Hook] = dict(others)
    functions |= {each.config.name: partial(read, layer) for layer, each in transcoders.items()}
    functions |= {f"blocks.{layer}.mlp_out": partial(written, layer) for layer in range(model.config.n_layers)}
    hooks = Hooks(functions)
    end = model.run_blocks(start, hooks=hooks)
    return Stream(reads, model.unembed.ln_final(end[:, pos : pos + 1], hooks=hooks.at("ln_final")))


def _expanded(tensor: Tensor, x: Tensor, _name: str) -> Tensor:
    """Return what is held for every row of a run."""
    return tensor.expand_as(x)
