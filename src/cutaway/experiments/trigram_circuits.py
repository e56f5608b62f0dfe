"""One layer of attention without norms and positions, and what its weights say of each A ... B -> C."""

from __future__ import annotations

import math

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from cutaway import ModelConfig, Transformer
from cutaway.interp.factored import full_ov, full_qk

__all__ = ["bare_layer", "attention_by_token", "trigram_scores"]


def bare_layer(d_vocab: int, n_ctx: int, *, d_model: int, n_heads: int, generator: torch.Generator) -> Transformer:
    """Return a model without norms, positions and biases: its logits are the sum of what its circuits say, and nothing else."""
    shape = ModelConfig(
        d_vocab=d_vocab, n_ctx=n_ctx, n_layers=1, n_heads=n_heads, d_model=d_model, d_mlp=0, norm="none", position="none",
        attn_bias=False, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape)
    model.init_weights(generator, std=d_model**-0.5)
    return model


@torch.no_grad()
def attention_by_token(model: Transformer) -> Float[Tensor, "head destination source"]:
    """Return what a query at one token gives to a key at another, by QK, among keys of every token once."""
    return (full_qk(model, 0).AB / math.sqrt(model.config.d_head)).softmax(-1)


@torch.no_grad()
def trigram_scores(
    model: Transformer, frequencies: Float[Tensor, " source"] | None = None
) -> Float[Tensor, "source destination target"]:
    """Return what reading a source from a destination adds to the logit of a target, by QK and OV of all heads.

    With the frequencies of sources, it is what one adds beyond what they add in the mean: a bigram may be told through any of them.
    """
    moved = full_ov(model, 0).AB  # head source target
    moved = moved - moved.mean(-1, keepdim=True)  # what is added to all logits alike says nothing
    if frequencies is not None:
        moved = moved - einsum(frequencies, moved, "source, head source target -> head target")[:, None]
    looks = attention_by_token(model)
    scores: Tensor = einsum(looks, moved, "head destination source, head source target -> source destination target")
    return scores
