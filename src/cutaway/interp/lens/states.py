"""The states of the residual stream that a lens reads, and the distributions that it reads off them, a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS, Hooks, recording, replacing
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import site_of
from cutaway.model import Transformer
from cutaway.model.norms import at_least_float32
from cutaway.views import without_dropout

__all__ = [
    "LensNorm",
    "Translate",
    "Distributions",
    "state_names",
    "state_label",
    "state_place",
    "distributions",
    "mean_kl",
    "kl_nats",
]

LensNorm = Literal["own", "frozen", "none"]
"""Whose scale the final norm divides by: the state's own, the one that the run ended with, or no norm at all."""

Translate = Callable[[Float[Tensor, "... d_model"], int], Float[Tensor, "... d_model"]]
"""What makes of a state, by its number, one that the final norm and the unembedding understand."""

_LOGITS_AT_ONCE = 2**23
"""Logits of one state held at a time: 32 MiB in float32, a few times over."""


def state_names(config: ModelConfig, *, include_mid: bool = False) -> list[str]:
    """Return the names of the states of the residual stream, from the embedding to the end.

    They are what comes into the first block and what leaves each, with `include_mid` also what lies between its attention and its MLP.
    Raises ValueError for a model without layers, and for mid-layers where blocks have none.
    """
    if config.n_layers == 0:
        raise ValueError("the model has no layers: a lens has nothing to read before the end")
    if include_mid and (config.block == "parallel" or config.d_mlp == 0):
        why = "its blocks have no MLP" if config.d_mlp == 0 else "attention and MLP are side by side in its blocks"
        raise ValueError(f"the model has no mid-layers: {why}; leave out include_mid")
    names = ["blocks.0.resid_pre"]
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.resid_mid"] * include_mid + [f"blocks.{layer}.resid_post"]
    return names


def state_label(name: str) -> str:
    """Return what a state is called beside a grid: `embed`, `3 mid`, `3`."""
    site = site_of(name)
    return {"resid_pre": "embed", "resid_mid": f"{site.layer} mid"}.get(site.part, str(site.layer))


def state_place(name: str) -> float:
    """Return where a state stands on an axis of layers: the embedding at -1, the middle of layer 3 at 2.5, its end at 3."""
    site = site_of(name)
    assert site.layer is not None
    return site.layer - {"resid_pre": 1.0, "resid_mid": 0.5}.get(site.part, 0.0)


@dataclass(frozen=True)
class Distributions:
    """Log-probabilities of some positions: those that the model ends with, and those that a lens reads at each state, one by one."""

    positions: slice
    final: Float[Tensor, "batch pos d_vocab"]
    by_state: Iterator[Float[Tensor, "batch pos d_vocab"]]


def distributions(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    *,
    norm: LensNorm = "own",
    translate: Translate | None = None,
) -> Iterator[Distributions]:
    """Run the model once and yield what a lens reads at its states, a few positions at a time.

    The logits of one state are there at a time and never those of all positions of a long text. With `norm="own"` and no `translate`
    the last state's are the model's own. To be read where gradients and dropout are off.
    """
    model.next_positions(tokens.shape[1])  # refuses a text that is too long
    end = f"blocks.{model.config.n_layers - 1}.resid_post"
    _, cache = run_with_cache(model, tokens, [*names, end], stop_after_layer=-1)
    n_at_once = max(1, _LOGITS_AT_ONCE // (tokens.shape[0] * model.config.d_vocab_out))

    def read(here: slice, hooks: Hooks) -> Iterator[Tensor]:
        for number, name in enumerate(names):
            resid = cache[name][:, here]
            resid = resid if translate is None else translate(resid, number)
            yield _log_probs(model.unembed.W_U(resid) if norm == "none" else model.unembed(resid, hooks=hooks))

    for first in range(0, tokens.shape[1], n_at_once):
        here = slice(first, min(first + n_at_once, tokens.shape[1]))
        last = cache[end][:, here]
        hooks = _frozen(model, last) if norm == "frozen" else NO_HOOKS
        yield Distributions(here, _log_probs(model.unembed(last)), read(here, hooks))


def kl_nats(final: Float[Tensor, "... d_vocab"], lens: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "..."]:
    """Return KL(final || lens) in nats of log-probabilities."""
    return (final.exp() * (final - lens)).sum(-1)


def mean_kl(
    model: Transformer, tokens: Int[Tensor, "batch pos"], names: Sequence[str], *, translate: Translate | None = None
) -> Float[Tensor, " layer"]:
    """Return KL(final || lens) in nats at each state, averaged over rows and positions."""
    sums = torch.zeros(len(names), dtype=torch.float64)
    model = without_dropout(model)
    with torch.inference_mode():
        for part in distributions(model, tokens, names, translate=translate):
            sums += torch.stack([kl_nats(part.final, lens).sum().cpu().double() for lens in part.by_state])
    return sums / tokens.numel()


def _log_probs(logits: Tensor) -> Tensor:
    return at_least_float32(logits).log_softmax(-1)


def _frozen(model: Transformer, last: Tensor) -> Hooks:
    """Return hooks that put the scales of the final states in the place of any others; a model without a norm has none."""
    hooks, scales = recording("ln_final.scale")
    model.unembed.ln_final(last, hooks=hooks.at("ln_final"))
    return replacing(scales)
