"""Where an edited run parts from the base run: its causal cone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cutaway.config import ModelConfig
from cutaway.interp.editing import PlacedEdit, place
from cutaway.interp.edits import Edit
from cutaway.interp.sites import hook_order, site_of
from cutaway.interp.sweep.base_run import BaseRun

__all__ = ["VALUE_KINDS", "Entry", "Lane", "entry_of", "lane_of", "why_whole"]

VALUE_KINDS = {"zero", "mean", "replace", "patch"}
"""Edits whose new values do not depend on the old, so that they can be compared with what the base run holds."""
_WRITES_ATTENTION = {"attn.z", "attn.result", "attn_out"}
_WRITES_MLP = {"mlp.post", "mlp_out"}
_READS_MID = {"resid_mid", "ln2.scale", "ln2.normalized", "mlp.pre", "mlp.pre_linear"}


@dataclass(frozen=True, order=True)
class Entry:
    """The first computation of an edited run that the base run does not hold."""

    layer: int
    """The layer it is in; `n_layers` for the unembedding."""
    half: int
    """0 at the layer's beginning, 1 before its MLP, 2 at its end."""


@dataclass(frozen=True)
class Lane:
    """One row under one variant: where it enters, from which position on it differs, and its edits."""

    variant: int
    row: int
    entry: Entry
    start: int
    end: int
    edits: tuple[PlacedEdit, ...]
    """Those that are applied from the entry on, base edits first, in the order of the computation."""


def why_whole(edits: Sequence[Edit]) -> str | None:
    """Return why a variant needs a whole run from the first layer; None where it does not."""
    for edit in edits:
        if edit.kind == "apply" and edit.reads == "all":
            return "a function that does not declare what it reads (reads='selection')"
        if edit.name == "pos_embed":
            return "pos_embed enters outside the residual stream's layers"
    return None


def lane_of(
    variant: int,
    row: int,
    edits: Sequence[Edit],
    *,
    base: BaseRun,
    config: ModelConfig,
    last_read: int,
    shared: dict[tuple[int, int], int],
) -> Lane | None:
    """Return how a row is run under a variant; None where no edit changes anything.

    An edit that holds what the base run holds, bit for bit or because tokens before are the same, changes nothing until an earlier one
    does. `shared` remembers how long a prefix the tokens of each patch share with the row.
    """
    n_rows, n_pos = base.tokens.shape
    length = base.lengths[row]
    placed = partial(place, config=config, n_pos=n_pos, n_rows=n_rows, row=row, length=length)
    order = hook_order(config)
    own = sorted(map(placed, edits), key=lambda each: order[each.edit.name])
    reach, kept = math.inf, []
    for each in own:
        first = _first_change(each, base, row, reach, shared)
        if first is not None:
            kept.append(each)
            reach = min(reach, first) if config.is_causal else 0
    if not kept or (config.is_causal and reach > last_read):
        return None
    entry = min(entry_of(each.edit.name, config) for each in kept)
    again = [placed(edit) for edit in base.edits if edit.name != "embed"]  # what enters the first layer holds those of embed
    if any(site_of(each.edit.name).layer == entry.layer for each in again):
        entry = Entry(entry.layer, 0)  # the base's edits of this layer are applied again, in their order
    again = [each for each in again if entry_of(each.edit.name, config).layer >= entry.layer]
    return Lane(
        variant=variant,
        row=row,
        entry=entry,
        start=int(reach) if config.is_causal else 0,
        end=last_read + 1 if config.is_causal else n_pos,
        edits=tuple(sorted([*again, *kept], key=lambda each: order[each.edit.name])),
    )


def entry_of(name: str, config: ModelConfig) -> Entry:
    """Return the first computation that an edit of this activation changes."""
    site = site_of(name)
    if site.layer is None:
        return Entry(0 if name in ("embed", "pos_embed") else config.n_layers, 0)
    is_sequential = config.block == "sequential" and config.d_mlp > 0
    if site.part == "resid_post" or site.part in _WRITES_MLP:
        return Entry(site.layer, 2)
    if site.part in _WRITES_ATTENTION:
        return Entry(site.layer, 1 if is_sequential else 2)
    return Entry(site.layer, 1 if is_sequential and site.part in _READS_MID else 0)


def _first_change(placed: PlacedEdit, base: BaseRun, row: int, reach: float, shared: dict[tuple[int, int], int]) -> int | None:
    """Return the first position at which an edit changes anything, given that earlier edits do from `reach` on."""
    positions = placed.positions
    positions = tuple(range(base.lengths[row])) if positions is None else positions
    if placed.edit.kind not in VALUE_KINDS:
        return min(positions)
    changed = _changed(placed, base, row, positions, shared)
    effective = [pos for pos, is_changed in zip(positions, changed, strict=True) if is_changed or pos >= reach]
    return min(effective, default=None)


def _changed(
    placed: PlacedEdit, base: BaseRun, row: int, positions: Sequence[int], shared: dict[tuple[int, int], int]
) -> list[bool]:
    """Return where the new values differ from the base run's."""
    n_shared = _shared_prefix(placed.edit, base, row, shared)
    if n_shared > max(positions):
        return [False] * len(positions)
    x = base.activations[placed.edit.name][row]
    old = placed.selection.read(x)
    value = placed.edit.new_value(old, None if placed.value is None else placed.value.to(x.device))
    kept = [axis for axis, places in enumerate(placed.selection.places) if not isinstance(places, int)]
    axis = placed.selection.position_axis
    differs = old != value.to(old.dtype)
    differs = differs.expand(old.shape) if differs.ndim < old.ndim else differs
    if axis not in kept:
        return [bool(differs.any())]
    by_position = differs.movedim(kept.index(axis), 0).flatten(1).any(-1) if differs.ndim > 1 else differs
    return [bool(each) and pos >= n_shared for pos, each in zip(positions, by_position.tolist(), strict=False)]


def _shared_prefix(edit: Edit, base: BaseRun, row: int, shared: dict[tuple[int, int], int]) -> int:
    """Return how many first tokens of the row the run that a patch comes from has too; 0 where that says nothing."""
    tokens = None if edit.provenance is None else edit.provenance.run.tokens
    if (
        tokens is None
        or base.edits
        or base.kv is None
        or tokens.shape[1] != base.tokens.shape[1]
        or base.lengths[row] != tokens.shape[1]
    ):
        return 0
    key = (id(tokens), row)
    if key not in shared:
        there, here = tokens[row if len(tokens) > 1 else 0], base.tokens[row]
        same = torch.eq(there, here.to(there.device))
        shared[key] = len(here) if bool(same.all()) else int((~same).nonzero()[0])
    return shared[key]
