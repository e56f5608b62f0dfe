"""What heads, neurons and all other parts of the stream add along directions, such as that of a token's logit.

A head's output is `z W_O`; its part along `d` is `z (W_O d)`, so that "batch pos head d_model" is never formed. Those of a cache raise
ValueError where the model's weights have changed since the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.cache import ActivationCache
from cutaway.interp.factored import W_O, W_U, W_out, b_U, read_through
from cutaway.interp.residual.stack import Stack, at_positions, kept_positions
from cutaway.model import NoNorm, Transformer
from cutaway.model.norms import at_least_float32

__all__ = [
    "Projections",
    "TokenIds",
    "project",
    "head_projections",
    "neuron_projections",
    "source_projections",
    "logit_directions",
    "logit_bias",
]

TokenIds = int | Sequence[int] | Int[Tensor, " token"]
"""One token, or several."""


@dataclass(frozen=True, eq=False)
class Projections:
    """What parts of the stream add along directions, each part under its name."""

    values: Float[Tensor, "component batch pos *further"]
    """The last axis is that of the directions where several were given; `source_projections` has one of sources before it."""
    labels: tuple[str, ...]

    def __getitem__(self, label: str) -> Float[Tensor, "batch pos *further"]:
        """Return those of one component; raises KeyError for a label that is not there."""
        if label not in self.labels:
            raise KeyError(f"there is no component {label!r}")
        return self.values[self.labels.index(label)]


def project(stack: Stack, directions: Float[Tensor, "... d_model"]) -> Projections:
    """Return the products of a stack's vectors with directions.

    `directions` is "d_model", or several as "direction d_model", or each row's own as "batch direction d_model"; the same for all
    functions here. Directions are taken as they are: of length 1 for lengths along them.
    """
    each = _of_rows(directions, stack.values)
    values = einsum(
        stack.values.to(each), each, "component batch pos d_model, batch direction d_model -> component batch pos direction"
    )
    return Projections(_as_given(values, directions), stack.labels)


def head_projections(
    cache: ActivationCache,
    directions: Float[Tensor, "... d_model"],
    layer: int | None = None,
    *,
    pos: int | Sequence[int] | None = None,
) -> Projections:
    """Return what each head of a layer, or of all, adds along directions; the biases `b_O` are of no head and are left out.

    All layers are in order, so that `values` may be split as "(layer head) batch pos". Needs `attn.z`. Memory: a number for each
    head, not a vector.
    """
    cache.check_weights()
    config, positions = cache.model.config, kept_positions(cache, pos)
    layers = range(config.n_layers) if layer is None else [layer % config.n_layers]
    found = []
    for each in layers:
        z = at_positions(cache, cache["z", each], positions)
        rows = _of_rows(directions, z)
        folded = einsum(
            W_O(cache.model, each).to(rows), rows, "head d_head d_model, batch direction d_model -> batch direction head d_head"
        )
        found.append(einsum(z.to(rows), folded, "batch pos head d_head, batch direction head d_head -> head batch pos direction"))
    labels = tuple(f"L{each}H{head}" for each in layers for head in range(config.n_heads))
    return Projections(_as_given(torch.cat(found), directions), labels)


def neuron_projections(
    cache: ActivationCache,
    directions: Float[Tensor, "... d_model"],
    layer: int,
    *,
    pos: int | Sequence[int] | None = None,
) -> Projections:
    """Return what each neuron of a layer adds along directions; the bias `b_out` is of no neuron and left out. Needs `mlp.post`."""
    cache.check_weights()
    positions = kept_positions(cache, pos)
    post = at_positions(cache, cache["mlp.post", layer], positions)
    rows = _of_rows(directions, post)
    folded = einsum(W_out(cache.model, layer).to(rows), rows, "d_mlp d_model, batch direction d_model -> batch direction d_mlp")
    values = einsum(post.to(rows), folded, "batch pos d_mlp, batch direction d_mlp -> d_mlp batch pos direction")
    layer %= cache.model.config.n_layers
    return Projections(_as_given(values, directions), tuple(f"L{layer}N{neuron}" for neuron in range(len(values))))


def source_projections(
    cache: ActivationCache,
    directions: Float[Tensor, "... d_model"],
    layer: int,
    *,
    pos: int | Sequence[int] | None = None,
) -> Projections:
    """Return what each head of a layer adds along directions from every source: attention times the source's value.

    `values` are "head batch pos k_pos", and a last axis for several directions; summed over sources they are the heads'
    projections. `pos` are the positions that read. Needs `pattern`, and `v` of all positions. Source: Elhage et al. 2021,
    "Attention Heads as Information Movement".
    """
    if cache.pos is not None:
        raise ValueError("sources are all positions, and this record keeps some: run_with_cache without pos, and give pos here")
    cache.check_weights()
    positions = kept_positions(cache, pos)
    pattern = at_positions(cache, cache["pattern", layer], positions, axis=2)
    v = repeat(cache["v", layer], "batch k_pos kv_head d_head -> batch k_pos (kv_head group) d_head", group=_group(cache.model))
    rows = _of_rows(directions, v)
    folded = einsum(
        W_O(cache.model, layer).to(rows), rows, "head d_head d_model, batch direction d_model -> batch direction head d_head"
    )
    of_source = einsum(v.to(rows), folded, "batch k_pos head d_head, batch direction head d_head -> batch head k_pos direction")
    values = einsum(
        pattern.to(rows), of_source, "batch head pos k_pos, batch head k_pos direction -> head batch pos k_pos direction"
    )
    layer %= cache.model.config.n_layers
    return Projections(_as_given(values, directions), tuple(f"L{layer}H{head}" for head in range(len(values))))


def logit_directions(model: Transformer, correct: TokenIds, wrong: TokenIds | None = None) -> Float[Tensor, "token d_model"]:
    """Return the directions of tokens' logits, or of the differences to those of `wrong`, in the stream that the last norm reads.

    The norm's gain is in them and so is LayerNorm's centring, so that `resid @ direction / scale + logit_bias` is the logit, with
    `scale` what the norm divided by. One token for `correct` or `wrong` goes with each of several. Raises ValueError for ids
    without a logit. Source: Elhage et al. 2021, "Zero-Layer Transformers"; Wang et al. 2022, section 3.1.
    """
    return read_through(model.unembed.ln_final, _unembedding(model, correct, wrong)).T


def logit_bias(model: Transformer, correct: TokenIds, wrong: TokenIds | None = None) -> Float[Tensor, " token"]:
    """Return what logits, or their differences, are whatever the stream holds: by the biases of unembedding and last norm."""
    norm, W = model.unembed.ln_final, _unembedding(model, correct, wrong)
    bias = at_least_float32(b_U(model)[_ids(model, correct)])
    if wrong is not None:
        bias = bias - at_least_float32(b_U(model)[_ids(model, wrong)])
    return bias.expand(W.shape[1]) if isinstance(norm, NoNorm) or norm.bias is None else bias + norm.bias.to(W) @ W


def _unembedding(model: Transformer, correct: TokenIds, wrong: TokenIds | None) -> Float[Tensor, "d_model token"]:
    W = at_least_float32(W_U(model)[:, _ids(model, correct)])
    return W if wrong is None else W - at_least_float32(W_U(model)[:, _ids(model, wrong)])


def _ids(model: Transformer, tokens: TokenIds) -> list[int]:
    ids = [tokens] if isinstance(tokens, int) else [int(token) for token in tokens]
    if absent := [token for token in ids if not 0 <= token < model.config.d_vocab_out]:
        raise ValueError(f"there is no logit of token {absent[0]}; there are {model.config.d_vocab_out}")
    return ids


def _of_rows(directions: Tensor, like: Tensor) -> Float[Tensor, "batch direction d_model"]:
    """Return directions as one set for all rows, or one for each, in float32 or more."""
    rows = directions.reshape(1, -1, directions.shape[-1]) if directions.ndim < 3 else directions
    return rows.to(torch.promote_types(torch.promote_types(directions.dtype, like.dtype), torch.float32))


def _as_given(values: Float[Tensor, "*shape direction"], directions: Tensor) -> Float[Tensor, "..."]:
    return values[..., 0] if directions.ndim == 1 else values


def _group(model: Transformer) -> int:
    return model.config.n_heads // model.config.n_kv_heads
