"""The weights of a model in the shapes in which the field writes about them: `x @ W_Q(model, layer)[head]`.

Every function takes a model and perhaps a layer, counted from the end where it is negative. Of one layer it returns a view of the
model's memory, to which gradients flow back; all layers are stacked, which copies. Biases that a model lacks are zeros. Where query
heads share keys and values, those are repeated for each, which copies. Raises ValueError for weights and layers that are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.model import Attention, Block, LayerNorm, NoNorm, RMSNorm, Transformer

__all__ = [
    "W_E",
    "W_pos",
    "W_U",
    "b_U",
    "W_Q",
    "W_K",
    "W_V",
    "W_O",
    "b_Q",
    "b_K",
    "b_V",
    "b_O",
    "W_in",
    "W_gate",
    "W_out",
    "b_in",
    "b_gate",
    "b_out",
    "block_of",
    "read_through",
    "centred",
]


def W_E(model: Transformer) -> Float[Tensor, "d_vocab d_model"]:
    """Return the embedding."""
    return model.embed.W_E


def W_pos(model: Transformer) -> Float[Tensor, "n_ctx d_model"]:
    """Return the vector of every position: a weight, or the table of sinusoids."""
    positions = model.embed.pos_embed or model.qk_positions
    if positions is None:
        raise ValueError(f"this model adds no vectors of positions: its position is {model.config.position!r}")
    vectors: Tensor = positions(torch.arange(model.config.n_ctx, device=model.embed.W_E.device))
    return vectors.to(model.embed.W_E.dtype)


def W_U(model: Transformer) -> Float[Tensor, "d_model d_vocab_out"]:
    """Return the unembedding."""
    return model.unembed.W_U.weight.T


def b_U(model: Transformer) -> Float[Tensor, " d_vocab_out"]:
    """Return the bias of the unembedding."""
    return _bias(model.unembed.W_U)


def W_Q(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_model d_head"]:
    """Return what makes a head's queries."""
    return _of_attention(model, layer, lambda attn: _split(attn.W_Q.weight, attn.n_heads))


def W_K(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_model d_head"]:
    """Return what makes a head's keys, repeated for each query head of a group."""
    return _of_attention(model, layer, lambda attn: _for_each_head(_split(attn.W_K.weight, attn.n_kv_heads), attn))


def W_V(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_model d_head"]:
    """Return what makes a head's values, repeated for each query head of a group."""
    return _of_attention(model, layer, lambda attn: _for_each_head(_split(attn.W_V.weight, attn.n_kv_heads), attn))


def W_O(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_head d_model"]:
    """Return what writes to the residual stream what a head has read."""
    return _of_attention(
        model,
        layer,
        lambda attn: rearrange(attn.W_O.weight, "d_model (head d_head) -> head d_head d_model", head=attn.n_heads),
    )


def b_Q(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_head"]:
    """Return the biases of the queries."""
    return _of_attention(model, layer, lambda attn: _bias(attn.W_Q).unflatten(0, (attn.n_heads, -1)))


def b_K(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_head"]:
    """Return the biases of the keys, repeated for each query head of a group."""
    return _of_attention(model, layer, lambda attn: _for_each_head(_bias(attn.W_K).unflatten(0, (attn.n_kv_heads, -1)), attn))


def b_V(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer head d_head"]:
    """Return the biases of the values, repeated for each query head of a group."""
    return _of_attention(model, layer, lambda attn: _for_each_head(_bias(attn.W_V).unflatten(0, (attn.n_kv_heads, -1)), attn))


def b_O(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_model"]:
    """Return what attention adds to the residual stream beside its heads."""
    return _of_attention(model, layer, lambda attn: _bias(attn.W_O))


def W_in(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_model d_mlp"]:
    """Return what the hidden layer reads."""
    return _of_mlp(model, layer, "W_in").mT


def W_gate(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_model d_mlp"]:
    """Return what the gate of the hidden layer reads."""
    return _of_mlp(model, layer, "W_gate").mT


def W_out(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_mlp d_model"]:
    """Return what the hidden layer writes."""
    return _of_mlp(model, layer, "W_out").mT


def b_in(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_mlp"]:
    """Return the bias of the hidden layer."""
    return _of_mlp(model, layer, "W_in", bias=True)


def b_gate(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_mlp"]:
    """Return the bias of the gate."""
    return _of_mlp(model, layer, "W_gate", bias=True)


def b_out(model: Transformer, layer: int | None = None) -> Float[Tensor, "*layer d_model"]:
    """Return what the MLP adds to the residual stream beside its neurons."""
    return _of_mlp(model, layer, "W_out", bias=True)


def block_of(model: Transformer, layer: int) -> Block:
    """Return a layer by its number, or counted from the end where it is negative."""
    n_layers = model.config.n_layers
    if not -n_layers <= layer < n_layers:
        there = f"give 0 to {n_layers - 1}, or -1 for the last" if n_layers else "it has none"
        raise ValueError(f"the model has no layer {layer}: {there}")
    return cast(Block, model.blocks[layer])


def read_through(
    norm: LayerNorm | RMSNorm | NoNorm, W: Float[Tensor, "*leading d_model out"]
) -> Float[Tensor, "*leading d_model out"]:
    """Return a reading matrix as the residual stream sees it: with the linear part of the norm before it.

    The norm's weight multiplies the rows, and where LayerNorm subtracts the mean of what is read, so does the matrix. Then `norm(x) W`
    is `x` times the result over the norm's scale, plus the norm's bias times `W`.
    """
    if isinstance(norm, NoNorm):
        return W
    W = norm.weight[:, None] * W
    return W - W.mean(dim=-2, keepdim=True) if isinstance(norm, LayerNorm) else W


def centred(norm: LayerNorm | RMSNorm | NoNorm, W: Float[Tensor, "*leading d_model"]) -> Float[Tensor, "*leading d_model"]:
    """Return a writing matrix without what a norm takes away again whatever it is: with LayerNorm the mean of each row."""
    return W - W.mean(dim=-1, keepdim=True) if isinstance(norm, LayerNorm) else W


def _of_attention(model: Transformer, layer: int | None, weight: Callable[[Attention], Tensor]) -> Tensor:
    return _of_layers(model, layer, lambda block: weight(block.attn))


def _of_mlp(model: Transformer, layer: int | None, name: str, *, bias: bool = False) -> Tensor:
    def weight(block: Block) -> Tensor:
        linear = getattr(block.mlp, name, None)
        if linear is None:
            why = "its MLP is not gated" if model.config.d_mlp else "it has attention alone"
            raise ValueError(f"this model has no {name}: {why}")
        return _bias(linear) if bias else linear.weight

    return _of_layers(model, layer, weight)


def _of_layers(model: Transformer, layer: int | None, weight: Callable[[Block], Tensor]) -> Tensor:
    if layer is not None:
        return weight(block_of(model, layer))
    if model.config.n_layers == 0:
        raise ValueError("the model has no layers, so it has no weights of layers")
    return torch.stack([weight(block_of(model, each)) for each in range(model.config.n_layers)])


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _split(weight: Float[Tensor, "out d_model"], n_heads: int) -> Float[Tensor, "head d_model d_head"]:
    return rearrange(weight, "(head d_head) d_model -> head d_model d_head", head=n_heads)


def _for_each_head(of_kv_head: Float[Tensor, "kv_head ..."], attn: Attention) -> Float[Tensor, "head ..."]:
    return repeat(of_kv_head, "kv_head ... -> (kv_head group) ...", group=attn.n_heads // attn.n_kv_heads)
