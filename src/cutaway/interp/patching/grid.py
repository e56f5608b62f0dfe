"""Grids of patches: one activation of another run at a time, by layer and position or head, in one sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.cache import ActivationCache
from cutaway.interp.edits import Edit
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import full_name, site_of
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = [
    "Cell",
    "Pairs",
    "Grid",
    "patch_grid",
    "grid_with_base",
    "cached_part",
    "get_act_patch_resid_pre",
    "get_act_patch_resid_mid",
    "get_act_patch_attn_out",
    "get_act_patch_mlp_out",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_pattern_all_pos",
]

Cell = Literal["position", "head", "kv-head", "head-position", "layer"]
"""What is patched at once in a layer: a position, a head at all positions, a head at one, or everything."""

Pairs = Sequence[tuple[int, int]]
"""(position in the run that is patched from, position in the run that is patched into)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The metric of every patched run, and of the run that was patched into."""

    scores: Float[Tensor, "layer *cell batch"]
    base: Float[Tensor, " batch"]
    by: Cell
    positions: tuple[int, ...]
    """The positions of the run patched into, where `by` has an axis for them."""


def patch_grid(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    cache: ActivationCache,
    metric: AnyMetric,
    *,
    site: str = "resid_pre",
    by: Cell | None = None,
    pairs: Sequence[Pairs] | None = None,
    lengths: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "layer *cell batch"]:
    """Return the metric of each row with one activation of another run, whose cache is given, in its place: for each layer and cell.

    A cell is a position, "layer pos batch" (what `by` is for parts of the stream unless given), a head at all positions, "layer
    head batch" (so for z, q, k, v and pattern), a head at one, "layer head pos batch", or the whole layer, "layer batch". `head` is
    a query head also where heads share keys and values: the others of its group keep theirs; `kv-head` is the group. `pairs` say for
    each row which positions belong together, all with themselves unless given; patterns take the keys that have a partner. Raises
    ValueError for a site that the model does not have, and for a `by` that does not fit it.
    """
    grid = grid_with_base(model, tokens, cache, metric, site=site, by=by, pairs=pairs, lengths=lengths, progress=progress)
    return grid.scores


def grid_with_base(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    cache: ActivationCache,
    metric: AnyMetric,
    *,
    site: str,
    by: Cell | None,
    pairs: Sequence[Pairs] | None,
    lengths: Sequence[int] | None,
    progress: Callable[[int, int], None] | None,
) -> Grid:
    """Return the grid of `patch_grid` with the metric of the run without patches."""
    model, config = without_dropout(model), model.config
    names = [full_name(config, site, layer) for layer in range(config.n_layers)]
    by = _checked_by(site, site_of(names[0]).axes, by)
    n_rows, n_pos = tokens.shape
    rows = [[(pos, pos) for pos in range(n_pos)]] * n_rows if pairs is None else [list(each) for each in pairs]
    if len(rows) != n_rows:
        raise ValueError(f"pairs are for {len(rows)} rows and there are {n_rows}: give the pairs of each row")
    if any(row != rows[0] for row in rows):
        if "position" in by:
            raise ValueError(
                "patches by position need rows that align alike, of one length each; these do not: "
                "patch by head or by layer, or row by row"
            )
        cache, rows = _merged(model, tokens, cache, names, rows), [[(pos, pos) for pos in range(n_pos)]]
    is_whole = rows[0] == [(pos, pos) for pos in range(max(n_pos, cache.tokens.shape[1]))]
    places = _places(rows[0], by, is_whole=is_whole)
    heads = _heads(model, site_of(names[0]).axes, by)
    cells = [
        [_patch(name, cache, head, src, dst, None if is_whole else rows[0])]
        for name in names
        for head in heads
        for src, dst in places
    ]
    scores = sweep(model, tokens, [*cells, []], metric, lengths=lengths, progress=progress)
    shape = [len(heads)] * ("head" in by) + [len(places)] * ("position" in by)
    return Grid(
        scores=scores[:-1].unflatten(0, (config.n_layers, *shape)),
        base=scores[-1],
        by=by,
        positions=tuple(dst for _, dst in places) if "position" in by else (),  # type: ignore[misc]
    )


def cached_part(model: Transformer, site: str) -> str:
    """Return the glob of what a cache must hold for patches of a site; raises ValueError for one that the model does not have."""
    part = site_of(full_name(model.config, site, 0)).part
    return f"blocks.*.{'attn.z' if part == 'attn.result' else part}"


def _checked_by(site: str, axes: Sequence[str], by: Cell | None) -> Cell:
    has_heads = bool({"head", "kv_head"} & set(axes))
    if by is None:
        return "head" if has_heads else "position"
    if by not in get_args(Cell):
        raise ValueError(f"by is {by!r}; expected one of {', '.join(get_args(Cell))}")
    if "head" in by and not has_heads:
        raise ValueError(f"{site} has no heads (its axes are {' '.join(axes)}): patch it by position or by layer")
    if by == "kv-head" and "kv_head" not in axes:
        raise ValueError(f"kv-head is for k and v; {site} has the axes {' '.join(axes)}: patch it by head")
    return by


def _heads(model: Transformer, axes: Sequence[str], by: Cell) -> list[dict[str, int]]:
    """Return where along the axis of heads each patch is."""
    config = model.config
    if "head" not in by:
        return [{}]
    if by == "kv-head":
        return [{"head": head} for head in range(config.n_kv_heads)]
    is_shared = "kv_head" in axes and config.n_kv_heads < config.n_heads
    return [{"query_head" if is_shared else "head": head} for head in range(config.n_heads)]


_Place = tuple[int, int] | tuple[tuple[int, ...], tuple[int, ...]] | tuple[None, None]


def _places(pairs: Pairs, by: Cell, *, is_whole: bool) -> list[_Place]:
    """Return the positions that each patch is from and goes to; None for all."""
    if "position" in by:
        return list(pairs)
    if is_whole:
        return [(None, None)]
    return [(tuple(src for src, _ in pairs), tuple(dst for _, dst in pairs))]


def _patch(name: str, cache: ActivationCache, head: dict[str, int], src: Any, dst: Any, pairs: Pairs | None) -> Edit:
    """Return the edit of one cell; of patterns, where some positions have no partner, `pairs` say which keys do."""
    if not site_of(name).is_attention or pairs is None:
        return edits.patch(name, cache, pos=dst, src_pos=src, **head)
    last = dst if isinstance(dst, int) else max(dst)
    keys = [(src_key, dst_key) for src_key, dst_key in pairs if dst_key <= last]
    x = cache[name] if not head else cache[name][:, head["head"]]  # batch [head] q_pos k_pos
    value = x[..., src if isinstance(src, int) else list(src), :][..., [src_key for src_key, _ in keys]]
    return edits.replace(name, value, pos=dst, index=[dst_key for _, dst_key in keys], **head)


def _merged(
    model: Transformer, tokens: Tensor, cache: ActivationCache, names: Sequence[str], rows: Sequence[Pairs]
) -> ActivationCache:
    """Return the run's own activations with the other's where a row's positions have a partner."""
    _, own = run_with_cache(model, tokens, [name.replace("attn.result", "attn.z") for name in names])
    merged = {}
    for name in names:
        x, other = own[name].clone(), cache[name]
        for row, pairs in enumerate(rows):
            src, dst = (torch.tensor(side, device=x.device) for side in zip(*pairs, strict=True))
            from_row = other[row if len(other) > 1 else 0]
            if site_of(name).is_attention:
                x[row, :, dst[:, None], dst] = from_row[:, src[:, None], src]
            else:
                x[row, dst] = from_row[src]
        merged[name] = x
    return ActivationCache(merged, model=model, tokens=tokens, edited=True)


def _mean_grid(
    model: Transformer, corrupted_tokens: Tensor, clean_cache: ActivationCache, patching_metric: AnyMetric, *, site: str, by: Cell
) -> Tensor:
    return patch_grid(model, corrupted_tokens, clean_cache, patching_metric, site=site, by=by).mean(-1)


# As TransformerLens calls them: the metric averaged over rows, "layer pos" or "layer head". A metric here returns one number a row.
get_act_patch_resid_pre = partial(_mean_grid, site="resid_pre", by="position")
get_act_patch_resid_mid = partial(_mean_grid, site="resid_mid", by="position")
get_act_patch_attn_out = partial(_mean_grid, site="attn_out", by="position")
get_act_patch_mlp_out = partial(_mean_grid, site="mlp_out", by="position")
get_act_patch_attn_head_out_all_pos = partial(_mean_grid, site="z", by="head")
get_act_patch_attn_head_q_all_pos = partial(_mean_grid, site="q", by="head")
get_act_patch_attn_head_k_all_pos = partial(_mean_grid, site="k", by="head")
get_act_patch_attn_head_v_all_pos = partial(_mean_grid, site="v", by="head")
get_act_patch_attn_head_pattern_all_pos = partial(_mean_grid, site="pattern", by="head")
