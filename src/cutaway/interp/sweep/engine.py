"""Lanes run together: one pass over the layers, in which each lane joins where its edits begin to act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.interp.editing import PlacedEdit, edit_hooks
from cutaway.interp.factored.weights import block_of
from cutaway.interp.sites import site_of
from cutaway.interp.sweep.base_run import BaseRun, Prefix
from cutaway.interp.sweep.lanes import Entry, Lane
from cutaway.model import Transformer

__all__ = ["Group", "run_group"]


@dataclass(frozen=True)
class Group:
    """Lanes that run together, ordered by where they enter; all compute the positions from `start` up to, not with, `end`."""

    lanes: tuple[Lane, ...]
    start: int
    end: int
    n_last: int
    """Of how many of the last positions the last layer is computed: the others are not read."""


def run_group(model: Transformer, base: BaseRun, group: Group) -> Float[Tensor, "lane last_pos d_model"]:
    """Return what enters the unembedding in every lane, at the group's last positions."""
    n_layers = model.config.n_layers
    x: Tensor | None = None
    running: list[Lane] = []
    for layer in range(group.lanes[0].entry.layer, n_layers):
        n_last = group.n_last if layer == n_layers - 1 else None
        joining = [lane for lane in group.lanes if lane.entry == Entry(layer, 0)]
        if joining:
            x = _after(x, _changed_embedding(base, joining, group, _base_rows(base.inputs[layer], joining, group)))
            running += joining
        if x is not None:
            x = _run_layer(model, base, group, running, x, layer=layer, n_last=n_last)
        for half in (1, 2):
            joining = [lane for lane in group.lanes if lane.entry == Entry(layer, half)]
            if joining:
                entered = _enter_late(model, base, group, joining, layer=layer, half=half)
                x = _after(x, entered if n_last is None else entered[:, -n_last:])
                running += joining
    joining = [lane for lane in group.lanes if lane.entry.layer == n_layers]
    if joining:
        entered = _base_rows(base.inputs[n_layers], joining, group)
        x = _after(x, _changed_embedding(base, joining, group, entered)[:, -group.n_last :])
    assert x is not None
    return x


def _run_layer(
    model: Transformer, base: BaseRun, group: Group, lanes: Sequence[Lane], x: Tensor, *, layer: int, n_last: int | None
) -> Tensor:
    kv = None
    if base.kv is not None:
        kv = Prefix(base.kv, torch.tensor([lane.row for lane in lanes], device=x.device), group.start)
    positions = torch.arange(group.start, group.end, device=x.device)
    hooks = _hooks(lanes, layer, group.end)
    return model.run_blocks(x, range(layer, layer + 1), positions=positions, kv=kv, n_last=n_last, hooks=hooks)


def _enter_late(model: Transformer, base: BaseRun, group: Group, lanes: Sequence[Lane], *, layer: int, half: int) -> Tensor:
    """Return the end of a layer for lanes whose first change is within it: the base run's sum, and what the edits change in it."""
    block = block_of(model, layer)
    scope = f"blocks.{layer}."
    chain = _Chain(base, group, lanes, scope)
    change = chain.through("attn.z", block.attn.W_O, None)
    change = chain.of_result(block.attn.W_O, change)
    change = chain.through("attn_out", None, change)
    if half == 1:
        middle = _base_rows(base.activations[f"{scope}resid_mid"], lanes, group)
        hooks = _hooks(lanes, layer, group.end).at("blocks", layer)
        return block.add_mlp(middle if change is None else middle + change, hooks=hooks)
    if block.mlp is not None:
        written = chain.through("mlp.post", block.mlp.W_out, None)
        written = chain.through("mlp_out", None, written)
        change = written if change is None else change if written is None else change + written
    after = _base_rows(base.inputs[layer + 1], lanes, group)
    after = after.clone() if change is None else after + change
    return _written(after, f"{scope}resid_post", lanes, group)


@dataclass(frozen=True)
class _Chain:
    """How far edits at a layer's outputs move what it writes to the residual stream."""

    base: BaseRun
    group: Group
    lanes: Sequence[Lane]
    scope: str

    def through(self, part: str, writer: torch.nn.Linear | None, change: Tensor | None) -> Tensor | None:
        """Return the change after the edits of one activation, itself changed before; through the matrix that writes it, if any."""
        name = self.scope + part
        if not any(each.edit.name == name for lane in self.lanes for each in lane.edits):
            return change
        old = _base_rows(self.base.activations[name], self.lanes, self.group)
        new = _written(old.clone() if change is None else old + change, name, self.lanes, self.group)
        moved = new - old
        return moved if writer is None else moved.flatten(2) @ writer.weight.mT

    def of_result(self, W_O: torch.nn.Linear, change: Tensor | None) -> Tensor | None:
        """Return the change after edits of each head's own output, on top of that of `z`."""
        name = f"{self.scope}attn.result"
        if not any(each.edit.name == name for lane in self.lanes for each in lane.edits):
            return change
        old = _base_rows(self.base.activations[name], self.lanes, self.group)
        z_name = f"{self.scope}attn.z"
        now = old.clone()
        if change is not None:
            z = _base_rows(self.base.activations[z_name], self.lanes, self.group)
            moved = _written(z.clone(), z_name, self.lanes, self.group) - z
            by_head = W_O.weight.unflatten(1, z.shape[-2:])  # d_model head d_head
            now = old + torch.einsum("lphd,mhd->lphm", moved, by_head)
        return (_written(now, name, self.lanes, self.group) - old).sum(2)


def _hooks(lanes: Sequence[Lane], layer: int, end: int) -> Hooks:
    edits = [(each, i) for i, lane in enumerate(lanes) for each in lane.edits if site_of(each.edit.name).layer == layer]
    if not edits:
        return NO_HOOKS
    return Hooks(edit_hooks([each for each, _ in edits], end=end, rows=[i for _, i in edits]))


def _base_rows(x: Tensor, lanes: Sequence[Lane], group: Group) -> Tensor:
    """Return the base run's positions of the group, a row for every lane."""
    window = x[:, group.start : group.end]
    return window[torch.tensor([lane.row for lane in lanes], device=x.device)]


def _written(x: Tensor, name: str, lanes: Sequence[Lane], group: Group) -> Tensor:
    """Apply to each lane its edits of one activation, in the memory of `x`."""
    for i, lane in enumerate(lanes):
        for each in lane.edits:
            if each.edit.name == name:
                each.write(x[i], group.end)
    return x


def _changed_embedding(base: BaseRun, lanes: Sequence[Lane], group: Group, x: Tensor) -> Tensor:
    """Return the residual stream at the first layer with the edits of `embed` in it."""
    if all(each.edit.name != "embed" for lane in lanes for each in _own(lane)):
        return x
    old = _base_rows(base.activations["embed"], lanes, group)
    new = old.clone()
    for i, lane in enumerate(lanes):
        for each in _own(lane):
            if each.edit.name == "embed":
                each.write(new[i], group.end)
    return x + (new - old)


def _own(lane: Lane) -> list[PlacedEdit]:
    """Return the edits that the base run did not have: those of its embedding are in what it recorded."""
    return [each for i, each in enumerate(lane.edits) if i in lane.own]


def _after(x: Tensor | None, joining: Tensor) -> Tensor:
    return joining if x is None else torch.cat([x, joining])
