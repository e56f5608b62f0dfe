"""What a feature's direction does to the logits by itself, read by nothing but the last norm and the unembedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored import W_O
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sites import site_of
from cutaway.model import LayerNorm, NoNorm, Transformer

__all__ = ["logit_effects", "writes_to_stream"]

_STREAM = {"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn.z"}


def writes_to_stream(dictionary: Dictionary) -> bool:
    """Whether what the dictionary predicts is the residual stream or is added to it, so that its directions have logits."""
    return site_of(dictionary.config.target or dictionary.config.name).part in _STREAM and dictionary.config.n_models == 1


@torch.no_grad()
def logit_effects(model: Transformer, dictionary: Dictionary, features: Sequence[int]) -> Float[Tensor, "feature d_vocab_out"]:
    """Return how far each feature's direction, added once, moves each logit on its direct way, less the mean over the vocabulary.

    The last norm divides by the length of the whole stream, which differs from token to token: its division is left out, and what
    it does linearly (LayerNorm's centring, the gain) is in. So the order of tokens is that of the direct effect, and the numbers are to
    be divided by the norm's scale at a position. Later layers that read the direction are not in it. Raises ValueError where the
    dictionary's directions are not of the residual stream (`writes_to_stream`).
    """
    if not writes_to_stream(dictionary):
        raise ValueError(
            f"directions of {dictionary.config.target or dictionary.config.name} are not of the residual stream: they have no logits"
        )
    site, norm = site_of(dictionary.config.target or dictionary.config.name), model.unembed.ln_final
    rows = dictionary.W_dec[list(features)].to(model.unembed.W_U.weight)
    if site.part == "attn.z":
        rows = rows @ rearrange(W_O(model, site.layer), "head d_head d_model -> (head d_head) d_model")
    if isinstance(norm, LayerNorm):
        rows = rows - rows.mean(1, keepdim=True)
    if not isinstance(norm, NoNorm):
        rows = rows * norm.weight
    logits = torch.nn.functional.linear(rows, model.unembed.W_U.weight)
    return logits - logits.mean(1, keepdim=True)
