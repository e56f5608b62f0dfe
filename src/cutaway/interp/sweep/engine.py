"""Lanes run together: one pass over the layers, in which each lane joins where its edits begin to act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.interp.editing import edit_hooks
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
            x = _after(x, _enter_early(base, group, joining, layer=layer))
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
        x = _after(x, _enter_early(base, group, joining, layer=n_layers)[:, -group.n_last :])
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


def _enter_early(base: BaseRun, group: Group, lanes: Sequence[Lane], *, layer: int) -> Tensor:
    """Return what enters a layer, or the unembedding, for lanes that have changed nothing before, or the embedding alone."""
    entered = _base_rows(base.inputs[layer], lanes, group)
    change = _Chain(base, group, lanes, scope="").through("embed", None)
    return entered if change is None else entered + change


def _enter_late(model: Transformer, base: BaseRun, group: Group, lanes: Sequence[Lane], *, layer: int, half: int) -> Tensor:
    """Return the end of a layer for lanes whose first change is within it: the base run's sum, and what the edits change in it."""
    block = block_of(model, layer)
    scope = f"blocks.{layer}."
    chain = _Chain(base, group, lanes, scope)
    change = chain.through_heads(block.attn.W_O, chain.through("attn.z", None))
    change = chain.through("attn_out", change)
    if half == 1:
        middle = _base_rows(base.activations[f"{scope}resid_mid"], lanes, group)
        hooks = _hooks(lanes, layer, group.end).at("blocks", layer)
        return block.add_mlp(middle if change is None else middle + change, hooks=hooks)
    if block.mlp is not None:
        written = _by(block.mlp.W_out, chain.through("mlp.post", None))
        written = chain.through("mlp_out", written)
        change = written if change is None else change if written is None else change + written
    after = _base_rows(base.inputs[layer + 1], lanes, group)
    after = after.clone() if change is None else after + change
    return _written(after, f"{scope}resid_post", lanes, group)


@dataclass(frozen=True)
class _Chain:
    """How far edits move activations from the base run's, one after another."""

    base: BaseRun
    group: Group
    lanes: Sequence[Lane]
    scope: str

    def through(self, part: str, change: Tensor | None) -> Tensor | None:
        """Return the change of one activation after its edits, given the change before; None for none."""
        name = self.scope + part
        if not self._has(name):
            return change
        old = _base_rows(self.base.activations[name], self.lanes, self.group)
        return _written(old.clone() if change is None else old + change, name, self.lanes, self.group) - old

    def through_heads(
        self, W_O: torch.nn.Linear, z: Float[Tensor, "lane pos head d_head"] | None
    ) -> Float[Tensor, "lane pos d_model"] | None:
        """Return the change of what attention writes, given that of `z`: head by head where each head's own output is edited."""
        if not self._has(f"{self.scope}attn.result"):
            return _by(W_O, z)
        by_head = None if z is None else torch.einsum("lphd,mhd->lphm", z, W_O.weight.unflatten(1, z.shape[-2:]))
        result = self.through("attn.result", by_head)
        assert result is not None
        return result.sum(2)

    def _has(self, name: str) -> bool:
        return any(each.edit.name == name for lane in self.lanes for each in lane.edits)


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


def _by(writer: torch.nn.Linear, change: Tensor | None) -> Tensor | None:
    """Return the change of what a matrix writes, given that of what it reads."""
    return None if change is None else change.flatten(2) @ writer.weight.mT


def _after(x: Tensor | None, joining: Tensor) -> Tensor:
    return joining if x is None else torch.cat([x, joining])
