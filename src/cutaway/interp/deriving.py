"""Activations that follow from recorded ones when they are asked for: a full record then costs little more than the run."""

from __future__ import annotations

from collections.abc import Mapping

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import recording
from cutaway.interp import factored
from cutaway.interp.sites import site_of
from cutaway.model import Transformer, attend

__all__ = ["is_derivable", "can_derive", "derive", "sources_of"]

_FROM = {
    "attn.result": ("attn.z",),
    "attn.attn_scores": ("attn.rot_q", "attn.rot_k", "attn.v"),
    "attn.pattern": ("attn.rot_q", "attn.rot_k", "attn.v"),
    "ln1.scale": ("resid_pre",),
    "ln1.normalized": ("resid_pre",),
    "ln2.scale": ("resid_mid",),
    "ln2.normalized": ("resid_mid",),
    "mlp.post": ("mlp.pre",),
}
_OF_FINAL_NORM = ("ln_final.scale", "ln_final.normalized")


def is_derivable(name: str) -> bool:
    """Return whether a run of all positions need not record an activation: what is cheap to compute again, and each head's output."""
    return site_of(name).part in {*_FROM, *_OF_FINAL_NORM}


def can_derive(name: str, activations: Mapping[str, Tensor], model: Transformer) -> bool:
    """Return whether what an activation is computed of was recorded."""
    sources = sources_of(name, model)
    return sources is not None and all(source in activations for source in sources)


def derive(name: str, activations: Mapping[str, Float[Tensor, "..."]], model: Transformer) -> Float[Tensor, "..."]:
    """Return an activation computed from recorded ones by the model's own parts, in its own dtype.

    `can_derive` says whether they are there.
    """
    site = site_of(name)
    recorded = [activations[source] for source in sources_of(name, model) or ()]
    found = [x.to(model.embed.W_E) for x in recorded]
    if site.part == "attn.result":
        W_O = factored.W_O(model, site.layer or 0)
        result: Tensor = einsum(found[0], W_O, "... head d_head, head d_head d_model -> ... head d_model")
        return result.to(recorded[0].device)
    if site.part == "mlp.post":
        mlp = factored.block_of(model, site.layer or 0).mlp
        assert mlp is not None
        pre, *pre_linear = found
        return (mlp.act(pre) * pre_linear[0] if pre_linear else mlp.act(pre)).to(recorded[0].device)
    last = site.part.rpartition(".")[2]
    hooks, seen = recording(last)
    if site.part.startswith("ln"):
        norm = model.unembed.ln_final if site.layer is None else getattr(factored.block_of(model, site.layer), site.part[:3])
        norm(sum(found[1:], found[0]), hooks=hooks)
    else:
        q, k, v = (x.transpose(-3, -2) for x in found)  # batch head pos d_head
        attend(q, k, v, "causal" if model.config.is_causal else None, hooks=hooks)
    return seen[last].to(recorded[0].device)


def sources_of(name: str, model: Transformer) -> tuple[str, ...] | None:
    """Return the activations that one is computed of, those of a norm added up; None for one that is not derived."""
    site = site_of(name)
    if name in _OF_FINAL_NORM and model.config.n_layers == 0:
        return ("embed",) if model.embed.pos_embed is None else ("embed", "pos_embed")
    if name in _OF_FINAL_NORM:
        return (f"blocks.{model.config.n_layers - 1}.resid_post",)
    if site.part not in _FROM:
        return None
    parts = _FROM[site.part]
    if site.part == "mlp.post" and model.config.gated_mlp:
        parts = (*parts, "mlp.pre_linear")
    if model.config.position != "rotary":
        parts = tuple(part.replace("rot_", "") for part in parts)
    return tuple(f"blocks.{site.layer}.{part}" for part in parts)
