"""What senders outside a circuit write: nothing, a mean, or what they write in another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.editing import row_lengths
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.running import means, run_with_cache
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Ablated", "ablated_outputs"]

_N_ROWS = 8  # of the reference, run at once


@dataclass(frozen=True, eq=False)
class Ablated:
    """The output of every sender when it is ablated, of each row and position or of all alike.

    Heads are held by what they read (`z`), and so by far less than what they write. Biases of the attention's output are no head's and
    always stay; an MLP's is part of what it writes. An MLP that is taken apart is held whole, and its features by their latents: the
    rest follows, as a mean of sums is the sum of means.
    """

    how: How
    said: str
    """In words."""
    embed: Float[Tensor, "#batch #pos d_model"]
    z: tuple[Float[Tensor, "#batch #pos head d_head"], ...]
    """By layer."""
    mlp_out: tuple[Float[Tensor, "#batch #pos d_model"], ...]
    """By layer; empty without MLPs."""
    latents: Mapping[int, Float[Tensor, "#batch #pos feature"]] = field(default_factory=dict)
    """By the layer of an MLP that is taken apart."""
    n_same: int = 0
    """At so many first positions both runs read the same: there no sender differs, whatever is kept, nor does any key or value."""
    same_k: tuple[Float[Tensor, "batch same_pos kv_head d_head"], ...] = ()
    """The keys there, turned, by layer."""
    same_v: tuple[Float[Tensor, "batch same_pos kv_head d_head"], ...] = ()

    def by_name(self) -> dict[str, Float[Tensor, "#batch #pos ..."]]:
        """Return what is written by the names of activations."""
        of_layers = (("attn.z", self.z), ("mlp_out", self.mlp_out))
        return {"blocks.0.resid_pre": self.embed} | {
            f"blocks.{i}.{part}": x for part, layers in of_layers for i, x in enumerate(layers)
        }

    def part(self, rows: slice, first: int) -> Ablated:
        """Return that of some rows, from one of the positions where the runs may differ on; keys and values are of those before."""

        def of(x: Tensor) -> Tensor:
            x = x if len(x) == 1 else x[rows]
            return x if x.shape[1] == 1 else x[:, first:]

        return replace(
            self,
            embed=of(self.embed),
            z=tuple(map(of, self.z)),
            mlp_out=tuple(map(of, self.mlp_out)),
            latents={layer: of(x) for layer, x in self.latents.items()},
            n_same=first,
            same_k=tuple(k[rows, :first] for k in self.same_k),
            same_v=tuple(v[rows, :first] for v in self.same_v),
        )


def ablated_outputs(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    how: How,
    *,
    other_tokens: Int[Tensor, "batch other_pos"] | None = None,
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    over_positions: bool = False,
    lengths: Sequence[int] | None = None,
    features: Sequence[FeatureNodes] = (),
) -> Ablated:
    """Return what senders outside a circuit write in a run of `tokens`; `features` are those of its graph, opened.

    `zero`: nothing; `resample`: what they write in the run of `other_tokens`; `mean`: their mean over the rows of `reference`, the
    other tokens unless given, at each position, or over positions too. `lengths` are each row's tokens, in both runs, where rows are
    filled up on the right, which no mean counts. Raises ValueError for runs that are missing or of another length, and for a mean at
    each position of rows of different length.
    """
    if how not in get_args(How):
        raise ValueError(f"there is no ablation {how!r}; give one of {', '.join(get_args(How))}")
    if not tokens.numel():
        raise ValueError(f"the tokens are {_size(tokens)}: give at least one row of one token")
    model = without_dropout(model)
    with torch.no_grad():
        if how == "zero":
            return _zeros(model, features)
        if how == "resample":
            return _resampled(model, tokens, other_tokens, features)
        over = other_tokens if reference is None else reference
        return _means(model, tokens, over, features, over_positions=over_positions, lengths=lengths if reference is None else None)


def _zeros(model: Transformer, features: Sequence[FeatureNodes]) -> Ablated:
    config, like = model.config, model.embed.W_E
    z = tuple(like.new_zeros(1, 1, config.n_heads, config.d_head) for _ in range(config.n_layers))
    nothing = like.new_zeros(1, 1, config.d_model)
    latents = {each.layer: like.new_zeros(1, 1, len(each.features)) for each in features}
    return Ablated("zero", "zeros", nothing, z, (nothing,) * (config.n_layers if config.d_mlp else 0), latents)


def _resampled(model: Transformer, tokens: Tensor, other_tokens: Tensor | None, features: Sequence[FeatureNodes]) -> Ablated:
    if other_tokens is None:
        raise ValueError("the ablation 'resample' takes what is written in another run: give other_tokens")
    if other_tokens.shape != tokens.shape:
        raise ValueError(
            f"the tokens are {_size(tokens)} and the other tokens {_size(other_tokens)}: give as many rows of one length, "
            "position by position"
        )
    n_same = int((tokens == other_tokens).all(0).long().cumprod(0).sum()) if model.config.is_causal else 0
    key = "rot_k" if model.config.position == "rotary" else "k"
    keys, values = ([f"blocks.{layer}.attn.{name}" for layer in range(model.config.n_layers)] for name in (key, "v"))
    written, mlps = _names(model)
    names = [*written, *mlps, *keys, *values, *(each.reads for each in features)]
    record = run_with_cache(model, other_tokens, names)[1] if model.config.n_layers else {}
    return Ablated(
        "resample",
        "what it writes in the corrupted run",
        model.embed(other_tokens),
        tuple(record[name] for name in written),
        tuple(record[name] for name in mlps),
        {each.layer: each.latents_of(record[each.reads]) for each in features},
        n_same,
        tuple(record[name][:, :n_same].clone() for name in keys),
        tuple(record[name][:, :n_same].clone() for name in values),
    )


def _means(
    model: Transformer,
    tokens: Tensor,
    reference: Tensor | None,
    features: Sequence[FeatureNodes],
    *,
    over_positions: bool,
    lengths: Sequence[int] | None,
) -> Ablated:
    if reference is None:
        raise ValueError("the ablation 'mean' takes a mean over a reference: give reference or other_tokens")
    if not over_positions and reference.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"the tokens are {_size(tokens)} and the reference {_size(reference)}: give rows of the same length, or over_positions=True"
        )
    lengths = row_lengths(model, reference, lengths)
    if lengths is not None and not over_positions:
        raise ValueError(
            "rows of different length have no mean at each position: average over positions too (over_positions=True, which "
            "score_edges takes as what ablated_outputs gives), or take another ablation"
        )
    names = _names(model)
    given: dict[str, Any] = {"over_positions": over_positions, "lengths": lengths}
    found = means(model, reference, [*names[0], *names[1]], **given) if model.config.n_layers else {}
    embed = model.embed(reference)
    embed = embed[_filled(reference, lengths)].mean(0) if over_positions else embed.mean(0)
    place = " and positions" if over_positions else ", at each position"

    def as_rows(x: Tensor) -> Tensor:
        return x[None, None] if over_positions else x[None]

    z, mlp_out = (tuple(as_rows(found[name]) for name in each) for each in names)
    latents = _mean_latents(model, reference, features, **given)
    latents = {layer: as_rows(x) for layer, x in latents.items()}
    return Ablated("mean", f"its mean over {len(reference)} rows{place}", as_rows(embed), z, mlp_out, latents)


def _filled(tokens: Int[Tensor, "batch pos"], lengths: Sequence[int] | None) -> Bool[Tensor, "batch pos"]:
    """Return the positions that hold tokens of a row."""
    if lengths is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    return torch.arange(tokens.shape[1], device=tokens.device) < torch.tensor(list(lengths), device=tokens.device)[:, None]


def _mean_latents(
    model: Transformer, reference: Tensor, features: Sequence[FeatureNodes], *, over_positions: bool, lengths: Sequence[int] | None
) -> dict[int, Float[Tensor, "..."]]:
    """Return the mean of latents over rows, or over positions too: that of what encoders read would not give it."""
    if not features:
        return {}
    totals: dict[int, Tensor] = {}
    filled = _filled(reference, lengths)
    for rows, is_filled in zip(reference.split(_N_ROWS), filled.split(_N_ROWS), strict=True):
        record = run_with_cache(model, rows, [each.reads for each in features], stop_after_layer=features[-1].layer)[1]
        for each in features:
            total = (each.latents_of(record[each.reads]) * is_filled[..., None]).sum(0)
            totals[each.layer] = totals[each.layer] + total if each.layer in totals else total
    if over_positions:
        return {layer: total.sum(0) / filled.sum() for layer, total in totals.items()}
    return {layer: total / len(reference) for layer, total in totals.items()}


def _names(model: Transformer) -> tuple[list[str], list[str]]:
    layers = range(model.config.n_layers)
    z = [f"blocks.{layer}.attn.z" for layer in layers]
    return z, [f"blocks.{layer}.mlp_out" for layer in layers] if model.config.d_mlp else []


def _size(tokens: Tensor) -> str:
    return f"{tokens.shape[0]} rows of {tokens.shape[1]}"
