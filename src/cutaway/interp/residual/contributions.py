"""The parts of the stream along a direction, cut as attribution asks: by component, head, neuron, or source position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.cache import ActivationCache
from cutaway.interp.factored import block_of
from cutaway.interp.residual.decomposition import decompose_resid
from cutaway.interp.residual.projections import Projections, head_projections, neuron_projections, project, source_projections
from cutaway.interp.sites import hook_names, site_of

__all__ = ["Part", "Contributions", "contributions", "names_needed"]

Part = Literal["component", "head", "neuron", "position"]
"""How finely: attention and MLP of each layer; heads, or neurons, apart; or what heads fetch from each position."""


class Contributions(NamedTuple):
    """Parts along each row's direction that add up to the stream along it; `by_layer` has some of them as a map."""

    labels: tuple[str, ...]
    values: Float[Tensor, "component batch pos"]
    columns: tuple[str, ...] = ()
    by_layer: Float[Tensor, "layer column batch pos"] | None = None


def contributions(cache: ActivationCache, directions: Float[Tensor, "batch d_model"], by: Part, *, pos: list[int]) -> Contributions:
    """Return the parts of the stream at some positions along each row's direction; raises ValueError for neurons without an MLP."""
    rows = directions[:, None]  # batch direction d_model
    found = project(decompose_resid(cache, pos=pos), rows)
    whole = dict(zip(found.labels, found.values[..., 0], strict=True))
    return _CUTS[by](cache, rows, whole, pos)


def names_needed(config: ModelConfig, by: Part) -> list[str]:
    """Return the activations that are to be recorded."""
    needed = {"embed", "pos_embed", "attn_out", "mlp_out", "ln_final.scale", *_NEEDS[by]}
    return [name for name in hook_names(config) if site_of(name).part in needed]


_NEEDS: dict[Part, tuple[str, ...]] = {
    "component": (),
    "head": ("attn.z",),
    "neuron": ("mlp.post",),
    "position": ("attn.pattern", "attn.v"),
}
_Whole = Mapping[str, Float[Tensor, "batch pos"]]
_Pieces = tuple[tuple[str, ...], Float[Tensor, "piece batch pos"]]


def _by_component(cache: ActivationCache, _rows: Tensor, whole: _Whole, _pos: list[int]) -> Contributions:
    columns = ("attn", "mlp") if cache.model.config.d_mlp else ("attn",)
    layers = range(cache.model.config.n_layers)
    by_layer = [torch.stack([whole[f"L{layer} {column}"] for column in columns]) for layer in layers]
    return _in_pieces(whole, {}, columns, by_layer)


def _by_head(cache: ActivationCache, rows: Tensor, whole: _Whole, pos: list[int]) -> Contributions:
    pieces: dict[str, _Pieces] = {}
    by_layer = []
    for layer in range(cache.model.config.n_layers):
        found = head_projections(cache, rows, layer, pos=pos)
        bias = block_of(cache.model, layer).attn.W_O.bias
        pieces[f"L{layer} attn"] = _with_bias(found, rows, bias, f"L{layer} b_O")
        by_layer.append(found.values[..., 0])
    return _in_pieces(whole, pieces, tuple(f"H{head}" for head in range(cache.model.config.n_heads)), by_layer)


def _by_neuron(cache: ActivationCache, rows: Tensor, whole: _Whole, pos: list[int]) -> Contributions:
    if cache.model.config.d_mlp == 0:
        raise ValueError("this model has no neurons: its blocks have attention alone")
    pieces: dict[str, _Pieces] = {}
    for layer in range(cache.model.config.n_layers):
        found = neuron_projections(cache, rows, layer, pos=pos)
        bias = block_of(cache.model, layer).mlp.W_out.bias  # type: ignore[union-attr]
        pieces[f"L{layer} mlp"] = _with_bias(found, rows, bias, f"L{layer} b_out")
    return _in_pieces(whole, pieces, (), [])


def _by_position(cache: ActivationCache, rows: Tensor, whole: _Whole, pos: list[int]) -> Contributions:
    places = tuple(f"pos {place}" for place in range(cache.tokens.shape[1]))
    sources = whole["embed"].new_zeros(len(places), *whole["embed"].shape)  # k_pos batch pos
    by_layer = []
    for layer in range(cache.model.config.n_layers):
        of_heads = source_projections(cache, rows, layer, pos=pos).values[..., 0].sum(dim=0)  # batch pos k_pos
        by_layer.append(rearrange(of_heads, "batch pos k_pos -> k_pos batch pos"))
        sources = sources + by_layer[-1]
    ends = {name: whole[name] for name in ("embed", "pos_embed") if name in whole}
    if mlps := [part for name, part in whole.items() if name.endswith(" mlp")]:
        ends["all MLPs"] = torch.stack(mlps).sum(dim=0)
    blocks = [block_of(cache.model, layer) for layer in range(cache.model.config.n_layers)]
    biases: list[Tensor] = [bias for block in blocks if (bias := block.attn.W_O.bias) is not None]
    if biases:
        ends["all b_O"] = _along(rows, torch.stack(biases).sum(dim=0)).expand_as(whole["embed"])
    values = torch.cat([sources, torch.stack(list(ends.values()))])
    return Contributions((*places, *ends), values, places, torch.stack(by_layer) if by_layer else None)


_CUTS: dict[Part, Callable[[ActivationCache, Tensor, _Whole, list[int]], Contributions]] = {
    "component": _by_component,
    "head": _by_head,
    "neuron": _by_neuron,
    "position": _by_position,
}


def _in_pieces(whole: _Whole, pieces: Mapping[str, _Pieces], columns: tuple[str, ...], by_layer: list[Tensor]) -> Contributions:
    """Return the parts, some of them in pieces, in the order in which they write."""
    found = [pieces.get(name, ((name,), part[None])) for name, part in whole.items()]
    labels = tuple(label for names, _ in found for label in names)
    return Contributions(labels, torch.cat([values for _, values in found]), columns, torch.stack(by_layer) if by_layer else None)


def _with_bias(found: Projections, rows: Tensor, bias: Tensor | None, label: str) -> _Pieces:
    values = found.values[..., 0]
    if bias is None:
        return found.labels, values
    return (*found.labels, label), torch.cat([values, _along(rows, bias).expand_as(values[:1])])


def _along(rows: Tensor, bias: Float[Tensor, " d_model"]) -> Float[Tensor, "batch 1"]:
    """Return a bias along each row's direction, the same at every position."""
    return einsum(rows, bias.to(rows), "batch direction d_model, d_model -> batch direction")
