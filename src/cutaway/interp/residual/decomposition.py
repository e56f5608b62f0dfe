"""The residual stream taken apart: what it was after every layer, and what was added to make it.

Functions of an `ActivationCache`, which has them as methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored import W_O, W_out, block_of
from cutaway.interp.residual import norms
from cutaway.interp.residual.stack import Record, Stack, at_positions, kept_positions
from cutaway.runtime import free_memory_gib

__all__ = ["Mode", "accumulated_resid", "decompose_resid"]

Mode = Literal["all", "attn", "mlp"]
"""All that writes to the stream, or what attention or the MLPs write alone."""


def accumulated_resid(
    record: Record,
    layer: int | None = None,
    *,
    incl_mid: bool = False,
    apply_ln: bool = False,
    pos: int | Sequence[int] | None = None,
) -> Stack:
    """Return the residual stream before every layer, and after the last or, where given, before `layer`.

    `incl_mid` adds the stream between attention and MLP of the layers on the way; -1 is the last layer. `apply_ln` applies the norm
    that reads the last of them, with its recorded scale; for each stream's own scale call `cache.apply_ln(stack, scale="own")`.
    Raises KeyError for streams that were not recorded. Source: nostalgebraist 2020, interpreting GPT: the logit lens.
    """
    n_layers, positions = _n_layers(record, layer), kept_positions(record, pos)
    streams: dict[str, Tensor] = {}
    for each in range(n_layers):
        streams[f"L{each} pre"] = record["resid_pre", each]
        if incl_mid:
            streams[f"L{each} mid"] = record["resid_mid", each]
    streams["final" if layer is None else f"L{n_layers} pre"] = _stream(record, layer)
    values = torch.stack([at_positions(record, x, positions) for x in streams.values()])
    stack = Stack(values, tuple(streams), kind="streams", positions=positions)
    return norms.apply_ln(record, stack, layer) if apply_ln else stack


def decompose_resid(
    record: Record,
    layer: int | None = None,
    *,
    mode: Mode = "all",
    heads: bool = False,
    neurons: bool = False,
    incl_mid: bool = False,
    apply_ln: bool = False,
    pos: int | Sequence[int] | None = None,
) -> Stack:
    """Return what was added to the residual stream; the sum is the stream after the last layer, or where given before `layer`.

    Labels are `embed`, `pos_embed` (where positions are in the stream), `L0 attn`, `L0 mlp`; with `heads` `L0H3` and the bias `L0
    b_O`, with `neurons` `L0N7` and `L0 b_out`. `incl_mid` adds the attention of `layer`, so that the sum is what its MLP reads.
    `mode` leaves all out but attention or MLPs. The record of an edited run has a last part `edits`, what edits of the stream
    itself put there. `apply_ln` applies the norm that reads the sum, with its recorded scale. To project heads and neurons onto few
    directions, `head_projections` and `neuron_projections` need far less memory.

    Raises KeyError for activations that were not recorded, ValueError for layers that are not there, for stacks that would take more
    than half of the free memory, and for heads, neurons or the norm of weights that changed since the run. Source: Elhage et al. 2021,
    "Residual Stream".
    """
    if incl_mid and (layer is None or record.model.config.block == "parallel" or record.model.config.d_mlp == 0):
        raise ValueError("incl_mid is for a stream between a layer's attention and its MLP: give a layer of a model that has one")
    n_layers, positions = _n_layers(record, layer), kept_positions(record, pos)
    _check_memory(record, n_layers + incl_mid, heads=heads, neurons=neurons, n_positions=len(positions))
    labels: list[str] = []
    parts: list[Tensor] = []

    def add(names: Sequence[str], x: Float[Tensor, "component batch pos d_model"]) -> None:
        labels.extend(names)
        parts.append(x)

    if mode == "all":
        for name in ("embed", "pos_embed") if record.model.embed.pos_embed is not None else ("embed",):
            add([name], at_positions(record, record[name].expand(*record.tokens.shape[:1], -1, -1), positions)[None])
    for each in range(n_layers + incl_mid):
        if mode != "mlp":
            for written in _attention(record, each, heads, positions):
                add(*written)
        if mode != "attn" and each < n_layers and record.model.config.d_mlp:
            for written in _mlp(record, each, neurons, positions):
                add(*written)
    if record.edited and mode == "all":
        stream = at_positions(record, _stream(record, layer, incl_mid=incl_mid), positions)
        add(["edits"], (stream - torch.cat(parts).sum(dim=0))[None])
    values = torch.cat(parts) if parts else torch.zeros(0, len(record.tokens), len(positions), record.model.config.d_model)
    stack = Stack(values, tuple(labels), kind="parts" if mode == "all" else "some parts", positions=positions)
    return norms.apply_ln(record, stack, layer, before="mlp" if incl_mid else "attn") if apply_ln else stack


_Written = tuple[list[str], Float[Tensor, "component batch pos d_model"]]


def _attention(record: Record, layer: int, heads: bool, positions: Sequence[int]) -> Iterator[_Written]:
    if not heads:
        yield [f"L{layer} attn"], at_positions(record, record["attn_out", layer], positions)[None]
        return
    record.check_weights()
    z = at_positions(record, record["z", layer], positions)
    result = einsum(z, W_O(record.model, layer).to(z), "batch pos head d_head, head d_head d_model -> head batch pos d_model")
    yield [f"L{layer}H{head}" for head in range(len(result))], result
    if (bias := block_of(record.model, layer).attn.W_O.bias) is not None:
        yield [f"L{layer} b_O"], bias.to(z).expand_as(result[:1])


def _mlp(record: Record, layer: int, neurons: bool, positions: Sequence[int]) -> Iterator[_Written]:
    if not neurons:
        yield [f"L{layer} mlp"], at_positions(record, record["mlp_out", layer], positions)[None]
        return
    record.check_weights()
    post = at_positions(record, record["mlp.post", layer], positions)
    terms = einsum(post, W_out(record.model, layer).to(post), "batch pos d_mlp, d_mlp d_model -> d_mlp batch pos d_model")
    yield [f"L{layer}N{neuron}" for neuron in range(len(terms))], terms
    if (bias := block_of(record.model, layer).mlp.W_out.bias) is not None:  # type: ignore[union-attr]
        yield [f"L{layer} b_out"], bias.to(post).expand_as(terms[:1])


def _n_layers(record: Record, layer: int | None) -> int:
    """Return how many whole layers come before the stream that is asked for."""
    n_layers = record.model.config.n_layers
    if layer is None:
        return n_layers
    block_of(record.model, layer)  # refuses a layer that is not there
    return layer % n_layers


def _stream(record: Record, layer: int | None, *, incl_mid: bool = False) -> Float[Tensor, "batch pos d_model"]:
    if layer is not None:
        return record["resid_mid" if incl_mid else "resid_pre", layer]
    if record.model.config.n_layers:
        return record["resid_post", -1]
    return record["embed"] if record.model.embed.pos_embed is None else record["embed"] + record["pos_embed"]


def _check_memory(record: Record, n_layers: int, *, heads: bool, neurons: bool, n_positions: int) -> None:
    config = record.model.config
    n_components = 2 + n_layers * ((1 + config.n_heads if heads else 1) + (1 + config.d_mlp if neurons else 1))
    weight = record.model.embed.W_E
    needed = n_components * len(record.tokens) * n_positions * config.d_model * weight.element_size() / 2**30
    free = free_memory_gib(record.tokens.device)
    if free is not None and 2 * needed > free / 2:  # the parts and their stack
        raise ValueError(
            f"{n_components} components at {n_positions} positions take {2 * needed:.1f} GiB and {free / 2:.1f} may be used: "
            "give fewer positions (pos=), or project them with head_projections and neuron_projections"
        )
