"""Runs that are looked into: with hooks, with a record of activations, with edits while generating, with gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks
from cutaway.interp.cache import ActivationCache, cache_gib, cached_names
from cutaway.interp.deriving import is_derivable
from cutaway.interp.editing import Lengths, for_query_heads, hooks_of_run, row_lengths, row_positions
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.positions import at_places, from_start, of_all_rows
from cutaway.interp.provenance import PlainRun
from cutaway.interp.sites import full_name, hook_order, site_of
from cutaway.model import Transformer
from cutaway.model.norms import at_least_float32
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
    lengths: Lengths = None,
    pos: int | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    stop_after_layer: int | None = None,
    with_grad: bool = False,
    max_gib: float | None = None,
) -> tuple[Float[Tensor, "batch pos d_vocab"] | None, ActivationCache]:
    """Return the logits of a run and its activations of these names or globs, in either spelling; None keeps all.

    `pos` keeps some positions (an int keeps the axis), `stop_after_layer` ends the run there, with None for logits, `with_grad` keeps
    what gradients need, and `lengths` are the rows' tokens where they are filled up on the right: negative positions count from each
    row's own end. A record of everything keeps what the run computes anyway; scores, patterns, norms, `mlp.post` and each head's
    `attn.result` follow from it when they are asked for. Raises ValueError for names and edits of what the run does not compute,
    positions that are not there, and a record that would take more than `max_gib` of memory, half of what is free unless given.

    >>> import cutaway
    >>> lm = cutaway.load("ioi-mini")
    >>> logits, cache = cutaway.run_with_cache(lm.model, lm.tokens("When Mary and John"), "blocks.*.attn.pattern")
    >>> cache["pattern", 1].shape  # batch head q_pos k_pos
    torch.Size([1, 8, 4, 4])
    """
    lengths = row_lengths(model, tokens, lengths)
    run = None if edits or dtype is not None else PlainRun.of(model, tokens)
    model, edits = for_query_heads(model, edits)
    config, n_pos = model.config, tokens.shape[1]
    wanted = _computed(config, names, edits, stop_after_layer)
    derives = names is None and pos is None and run is not None and not with_grad
    if derives:
        wanted = [name for name in wanted if not is_derivable(name)]
    kept = None if pos is None else of_all_rows(pos, n_pos, lengths)
    n_kept = n_pos if kept is None else len(kept)
    held: dict[str, Any] = {"names": wanted, "n_kept": n_kept, "dtype": dtype or model.embed.W_E.dtype}
    _check_memory(cache_gib(config, batch=len(tokens), n_pos=n_pos, **held), max_gib, device or tokens.device)

    places = None if kept is None else [[from_start(each, n_pos, length) for each in kept] for length in lengths or (n_pos,)]
    record = _Record(len(tokens), places, device, dtype)
    functions: dict[str, list[Hook]] = hooks_of_run(model, tokens, edits, lengths=lengths)
    for name in wanted:
        functions.setdefault(name, []).append(record.keep)
    positions = row_positions(tokens, [edit.name for edit in edits])
    with contextlib.nullcontext() if with_grad else torch.no_grad():
        logits = _run(model, tokens, positions, Hooks(functions), stop_after_layer)
    cache = ActivationCache(
        record.activations,
        model=model,
        tokens=tokens.clone(),
        pos=kept,
        lengths=lengths,
        edited=bool(edits),
        derives="everything" if derives else "nothing" if edits else "result",
        dtype=dtype,
        run=run,
    )
    return logits, cache


@dataclass(frozen=True)
class _Record:
    """What is kept of a run, at some positions or all."""

    n_rows: int
    places: Sequence[Sequence[int]] | None
    """Which positions are kept, of all rows alike or of each; None for all."""
    device: torch.device | str | None
    dtype: torch.dtype | None
    activations: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, x: Tensor, name: str) -> None:
        """Take an activation as a hook sees it; `pos_embed` gets the batch axis that it does not have."""
        site = site_of(name)
        if name == "pos_embed":
            x = x.expand(self.n_rows, *x.shape[-2:])
        if self.places is not None:
            x = at_places(x, self.places, -2 if site.is_attention else site.axes.index("pos") - len(site.axes))
        self.activations[name] = x.to(device=self.device, dtype=self.dtype)


def means(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    names: str | Sequence[str],
    *,
    lengths: Lengths = None,
    batch_size: int = 8,
    over_positions: bool = True,
) -> dict[str, Float[Tensor, "..."]]:
    """Return each activation's mean over rows, and over positions too unless they are kept, to be given to `edits.mean`.

    Every token counts once; what rows are filled up with does not count. Raises ValueError for positions kept of rows of different
    lengths, and for the mean of attention over queries, which see different numbers of keys.
    """
    sizes = row_lengths(model, tokens, lengths) or (tokens.shape[1],) * len(tokens)
    if not over_positions and len(set(sizes)) > 1:
        raise ValueError(
            "rows of different lengths have no mean at each position: average over positions, or give rows of one length"
        )
    totals: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for start in range(0, len(tokens), batch_size):
        _, cache = run_with_cache(model, tokens[start : start + batch_size], names)
        for name, x in cache.items():
            if over_positions and site_of(name).is_attention:
                raise ValueError(f"{name!r} holds a row of keys for every query: give over_positions=False, or average it yourself")
            wide, dtypes[name] = at_least_float32(x), x.dtype
            rows = [row[:size].sum(0) for row, size in zip(wide, sizes[start:], strict=False)] if over_positions else list(wide)
            totals[name] = sum(rows, totals.get(name, torch.zeros_like(rows[0])))
    n = sum(sizes) if over_positions else len(tokens)
    return {name: (total / n).to(dtypes[name]) for name, total in totals.items()}


def gradients(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    metric: Callable[..., Tensor],
    names: str | Sequence[str],
    *,
    edits: Sequence[Edit] = (),
    lengths: Lengths = None,
) -> tuple[Float[Tensor, " batch"], ActivationCache, ActivationCache]:
    """Return a metric of each row, the activations of these names, and the metric's gradient with respect to each.

    `metric` is any differentiable function of the logits, `"batch pos d_vocab"` to `"batch"`; rows do not mix. `lengths` are the rows'
    tokens where they are filled up on the right; a `Metric` then counts from each row's own end. Nothing is left on the parameters.
    """
    lengths = row_lengths(model, tokens, lengths)
    with torch.enable_grad():
        model, edits = for_query_heads(model, edits)
        wanted = cached_names(model.config, names)
        activations: dict[str, Tensor] = {}

        def keep(x: Tensor, name: str) -> Tensor:
            leaf = x if x.requires_grad else x.detach().clone().requires_grad_()
            activations[name] = leaf
            return leaf

        functions: dict[str, list[Hook]] = hooks_of_run(model, tokens, edits, lengths=lengths)
        for name in wanted:
            functions.setdefault(name, []).append(keep)
        positions = row_positions(tokens, [*wanted, *(edit.name for edit in edits)])
        logits = model(tokens, positions=positions, hooks=Hooks(functions))
        values = metric(logits, lengths) if isinstance(metric, Metric) else metric(logits)
        grads = torch.autograd.grad(values.sum(), list(activations.values()), allow_unused=True)
    found = {
        name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in zip(activations.items(), grads, strict=True)
    }
    plain = {name: x.detach() for name, x in activations.items()}
    settings = {"model": model, "tokens": tokens.clone(), "lengths": lengths, "edited": bool(edits), "derives": "nothing"}
    return values.detach(), ActivationCache(plain, **settings), ActivationCache(found, **settings)  # type: ignore[arg-type]


def _run(
    model: Transformer, tokens: Tensor, positions: Tensor | None, hooks: Hooks, stop_after_layer: int | None
) -> Float[Tensor, "batch pos d_vocab"] | None:
    if stop_after_layer is None:
        return model(tokens, positions=positions, hooks=hooks)  # type: ignore[no-any-return]
    layers = range(1 + stop_after_layer % model.config.n_layers)
    model.run_blocks(model.embed(tokens, positions, hooks=hooks), layers, hooks=hooks)
    return None


def _computed(
    config: ModelConfig, names: str | Sequence[str] | None, edits: Sequence[Edit], stop_after_layer: int | None
) -> list[str]:
    """Return the full names of what is asked for, as far as a run computes it that may stop after a layer.

    Raises ValueError for a name, glob or edit that is wholly of what comes later.
    """
    wanted = cached_names(config, names)
    if stop_after_layer is None:
        return wanted
    order, stop = hook_order(config), full_name(config, "resid_post", stop_after_layer)
    given = [names] if isinstance(names, str) else names or []
    late = [repr(each) for each in given if all(order[name] > order[stop] for name in cached_names(config, each))]
    late += [str(edit) for edit in edits if order[edit.name] > order[stop]]
    if late:
        raise ValueError(f"this run stops after {stop}, before it comes to {', '.join(late)}: leave that out, or stop later")
    return [name for name in wanted if order[name] <= order[stop]]


def _check_memory(needed: float, max_gib: float | None, device: torch.device | str) -> None:
    free = free_memory_gib(torch.device(device))
    limit = max_gib if max_gib is not None else math.inf if free is None else free / 2
    if needed > limit:
        raise ValueError(
            f"these activations take {needed:.2f} GiB and {limit:.2f} may be used: name fewer, keep fewer positions, run "
            "fewer rows, or give max_gib"
        )
