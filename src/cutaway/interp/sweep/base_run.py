"""The run that a sweep reuses: what enters every layer, keys and values, and the activations that edits act on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.hooks import Hooks
from cutaway.interp.editing import hooks_of_run
from cutaway.interp.edits import Edit
from cutaway.model import Transformer
from cutaway.model.kv_cache import KVCache
from cutaway.model.masks import Mask

__all__ = ["BaseRun", "Prefix", "record_base"]


@dataclass(frozen=True)
class BaseRun:
    """One run of all rows, as far as edited runs can go on from it."""

    tokens: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]
    edits: tuple[Edit, ...]
    inputs: list[Float[Tensor, "batch pos d_model"]]
    """What enters each layer, and at the end what enters the unembedding."""
    kv: KVCache | None
    """Keys, after rotation, and values of all positions; None for a model that is not causal."""
    activations: dict[str, Float[Tensor, "..."]] = field(repr=False)
    """Those that edits act on, after the base edits."""

    @property
    def nbytes(self) -> int:
        """The memory it holds."""
        kept = [*self.inputs, *self.activations.values()]
        if self.kv is not None:
            kept += [*self.kv.k, *self.kv.v]
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}.values())


class Prefix(KVCache):
    """The base run's keys and values before `start`, seen by rows that go on from there; nothing is added to it."""

    def __init__(self, base: KVCache, rows: Int[Tensor, " lane"], start: int) -> None:
        self.k, self.v, self.n_slots = base.k, base.v, base.n_slots
        self._rows, self._start = rows, start

    def length(self, layer: int = 0) -> int:  # noqa: ARG002
        """Return where the new positions begin."""
        return self._start

    def extend(
        self,
        layer: int,
        positions: Int[Tensor, "*batch new_pos"],  # noqa: ARG002
        k: Float[Tensor, "batch kv_head new_pos d_head"],
        v: Float[Tensor, "batch kv_head new_pos d_head"],
    ) -> tuple[Float[Tensor, "batch kv_head k_pos d_head"], Float[Tensor, "batch kv_head k_pos d_head"]]:
        """Return the base's keys and values with the new ones after them."""
        if self._start == 0:
            return k, v
        return self._after(self.k[layer], k), self._after(self.v[layer], v)

    def mask(self, positions: Int[Tensor, "*batch new_pos"], layer: int = 0) -> Mask:  # noqa: ARG002
        """Return that the new positions, the last, see what is not after them."""
        return "causal"

    def _after(self, base: Tensor, new: Tensor) -> Tensor:
        before = base[:, :, : self._start]
        before = before.expand(len(new), -1, -1, -1) if len(base) == 1 else before[self._rows]
        return torch.cat([before, new], dim=2)


def record_base(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    *,
    edits: Sequence[Edit] = (),
    lengths: Sequence[int],
    names: Collection[str] = (),
) -> BaseRun:
    """Run all rows once, with the base edits, and keep what edited runs reuse; `names` are the activations they edit."""
    activations: dict[str, Tensor] = {}
    functions = hooks_of_run(model, tokens, edits, lengths=lengths)
    for name in names:
        functions.setdefault(name, []).append(lambda x, full: activations.update({full: x}))
    hooks = Hooks(functions)
    n_rows, n_pos = tokens.shape
    weights = model.embed.W_E
    positions = torch.arange(n_pos, device=tokens.device)
    kv = None
    if model.config.is_causal:
        kv = KVCache(model.config, batch=n_rows, n_slots=n_pos, dtype=weights.dtype, device=weights.device)
    inputs = [model.embed(tokens, positions, hooks=hooks)]
    for layer in range(model.config.n_layers):
        inputs.append(model.run_blocks(inputs[-1], range(layer, layer + 1), positions=positions, kv=kv, hooks=hooks))
    if {"ln_final.scale", "ln_final.normalized", "logits"} & set(names):
        model.unembed(inputs[-1], hooks=hooks)
    return BaseRun(tokens, tuple(lengths), tuple(edits), inputs, kv, activations)
