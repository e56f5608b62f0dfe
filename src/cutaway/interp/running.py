"""Runs that are looked into: with hooks, with a record of activations, with edits while generating, with gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks
from cutaway.interp.cache import ActivationCache, cache_gib, cached_names
from cutaway.interp.deriving import is_derivable
from cutaway.interp.editing import for_query_heads, hooks_of_run
from cutaway.interp.edits import Edit
from cutaway.interp.sites import full_name, hook_order, site_of
from cutaway.model import Transformer
from cutaway.runtime import free_memory_gib

__all__ = ["run_with_hooks", "run_with_cache", "means", "gradients"]


def run_with_hooks(
    model: Transformer, tokens: Int[Tensor, "batch pos"], hooks: Mapping[str, Hook | Sequence[Hook]] | Hooks
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of a run in which functions see, and may replace, the activations of these names or globs.

    Raises ValueError for a name that never came up.
    """
    return model(tokens, hooks=hooks if isinstance(hooks, Hooks) else Hooks(hooks))  # type: ignore[no-any-return]


def run_with_cache(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    names: str | Sequence[str] | None = None,
    *,
    edits: Sequence[Edit] = (),
    pos: int | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    stop_after_layer: int | None = None,
    with_grad: bool = False,
    max_gib: float | None = None,
) -> tuple[Float[Tensor, "batch pos d_vocab"] | None, ActivationCache]:
    """Return the logits of a run and its activations of these names or globs, in either spelling; None keeps all.

    `pos` keeps some positions (an int keeps the axis), `stop_after_layer` ends the run there, with None for logits, and `with_grad`
    keeps what gradients need. A record of everything keeps what the run computes anyway; scores, patterns, norm scales and each head's
    `attn.result` follow from it when they are asked for. Raises ValueError for names the model does not compute, positions that are not
    there, and a record that would take more than `max_gib` of memory, half of what is free unless given.

    >>> logits, cache = run_with_cache(lm.model, lm.tokens("When Mary and John"), "blocks.*.attn.pattern")  # doctest: +SKIP
    """
    model, edits = for_query_heads(model, edits)
    config, n_pos = model.config, tokens.shape[1]
    wanted = cached_names(config, names)
    n_layers = config.n_layers
    if stop_after_layer is not None:
        n_layers, wanted = _until(config, stop_after_layer, wanted)
    derives = names is None and pos is None and dtype is None and not edits and not with_grad
    if derives:
        wanted = [name for name in wanted if not is_derivable(name)]
    kept = None if pos is None else _positions([pos] if isinstance(pos, int) else pos, n_pos)
    n_kept = n_pos if kept is None else len(kept)
    dtype_kept = dtype or model.embed.W_E.dtype
    needed = cache_gib(config, batch=tokens.shape[0], n_pos=n_pos, names=wanted, n_kept=n_kept, dtype=dtype_kept)
    _check_memory(needed, max_gib, device or tokens.device)

    activations: dict[str, Tensor] = {}

    def keep(x: Tensor, name: str) -> None:
        if kept is not None:
            x = x.index_select(
                -2 if site_of(name).is_attention else site_of(name).axes.index("pos") - len(site_of(name).axes), kept
            )
        activations[name] = x.to(device=device, dtype=dtype)

    functions: dict[str, list[Hook]] = hooks_of_run(model, tokens, edits)
    for name in wanted:
        functions.setdefault(name, []).append(keep)
    hooks = Hooks(functions)
    with contextlib.nullcontext() if with_grad else torch.no_grad():
        logits = None
        if stop_after_layer is None:
            logits = model(tokens, hooks=hooks)
        else:
            positions = model.next_positions(n_pos, device=tokens.device)  # refuses more than n_ctx
            model.run_blocks(model.embed(tokens, positions, hooks=hooks), range(n_layers), hooks=hooks)
    cache = ActivationCache(
        activations, model=model, tokens=tokens, pos=None if kept is None else kept.tolist(), edited=bool(edits), derives=derives
    )
    return logits, cache


def means(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    names: str | Sequence[str],
    *,
    batch_size: int = 8,
    over_positions: bool = True,
) -> dict[str, Float[Tensor, "..."]]:
    """Return each activation's mean over rows, and over positions too unless they are kept, to be given to `edits.mean`."""
    sums: dict[str, Tensor] = {}
    for rows in tokens.split(batch_size):
        _, cache = run_with_cache(model, rows, names)
        for name, x in cache.items():
            total = x.sum(0)
            sums[name] = sums[name] + total if name in sums else total
    averages = {name: total / tokens.shape[0] for name, total in sums.items()}
    if not over_positions:
        return averages
    return {name: x.mean(0) if "pos" in site_of(name).axes else x for name, x in averages.items()}


def gradients(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: object,
    names: str | Sequence[str],
    *,
    edits: Sequence[Edit] = (),
) -> tuple[Float[Tensor, " batch"], ActivationCache, ActivationCache]:
    """Return a metric of each row, the activations of these names, and the metric's gradient with respect to each.

    `metric` is any differentiable function of the logits, `"batch pos d_vocab"` to `"batch"`; rows do not mix. Nothing is left on the
    parameters.
    """
    assert callable(metric)
    with torch.enable_grad():
        model, edits = for_query_heads(model, edits)
        wanted = cached_names(model.config, names)
        activations: dict[str, Tensor] = {}

        def keep(x: Tensor, name: str) -> Tensor:
            leaf = x if x.requires_grad else x.detach().clone().requires_grad_()
            activations[name] = leaf
            return leaf

        functions: dict[str, list[Hook]] = hooks_of_run(model, tokens, edits)
        for name in wanted:
            functions.setdefault(name, []).append(keep)
        values = metric(model(tokens, hooks=Hooks(functions)))
        grads = torch.autograd.grad(values.sum(), list(activations.values()), allow_unused=True)
    found = {
        name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in zip(activations.items(), grads, strict=True)
    }
    plain = {name: x.detach() for name, x in activations.items()}
    settings = {"model": model, "tokens": tokens, "edited": bool(edits)}
    return values.detach(), ActivationCache(plain, **settings), ActivationCache(found, **settings)  # type: ignore[arg-type]


def _until(config: ModelConfig, layer: int, names: list[str]) -> tuple[int, list[str]]:
    """Return how many layers a run has that stops after one, and which of the names it computes."""
    last = full_name(config, "resid_post", layer)
    order = hook_order(config)
    return 1 + layer % config.n_layers, [name for name in names if order[name] <= order[last]]


def _positions(pos: Sequence[int], n_pos: int) -> Tensor:
    if wrong := [each for each in pos if not -n_pos <= each < n_pos]:
        raise ValueError(f"there is no position {wrong[0]}; there are {n_pos}, 0 to {n_pos - 1}")
    return torch.tensor([each % n_pos for each in pos])


def _check_memory(needed: float, max_gib: float | None, device: torch.device | str) -> None:
    free = free_memory_gib(torch.device(device))
    limit = max_gib if max_gib is not None else math.inf if free is None else free / 2
    if needed > limit:
        raise ValueError(
            f"these activations take {needed:.2f} GiB and {limit:.2f} may be used: name fewer (names=), keep fewer positions (pos=), "
            "run fewer rows, or give max_gib"
        )
