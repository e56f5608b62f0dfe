"""Dictionaries that are put into the runs of the tiny model: random ones, one that leaves every run as it is, and a transcoder."""

import torch

from cutaway import sae
from cutaway.interp.sae.activations import width_of

# float64: the same sums in another order
EXACT = 1e-10

NAMES = [
    "blocks.0.resid_post",
    "blocks.1.resid_post",
    "blocks.1.resid_pre",
    "blocks.0.attn.z",
    "blocks.0.mlp_out",
    "blocks.1.resid_mid",
]


def a_dictionary(model, name="blocks.0.resid_post", kind="topk", *, d_sae=40, seed=0, **fields):
    config = sae.DictionaryConfig(
        kind=kind, d_in=width_of(model, name), d_sae=d_sae, name=name, **{**({"k": 4} if "topk" in kind else {}), **fields}
    )
    generator = torch.Generator().manual_seed(seed)
    made = sae.make_dictionary(config, generator=generator).double().eval()
    with torch.no_grad():
        made.b_enc += 0.1 * torch.randn(d_sae, generator=generator)
        made.b_dec += 0.1 * torch.randn(config.d_out, generator=generator)
    return made


def plus_and_minus(model, name):
    """The dictionary [I; -I] under ReLU: every coordinate's positive and its negative part."""
    d = width_of(model, name)
    made = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=d, d_sae=2 * d, name=name)).double()
    both = torch.cat([torch.eye(d), -torch.eye(d)]).double()
    with torch.no_grad():
        made.W_dec.copy_(both)
        made.W_enc.copy_(both.T)
    return made


def a_transcoder(model, *, has_skip=False, seed=0):
    return a_dictionary(
        model, "blocks.1.ln2.normalized", target="blocks.1.mlp_out", d_out=model.config.d_model, has_skip=has_skip, seed=seed
    )
