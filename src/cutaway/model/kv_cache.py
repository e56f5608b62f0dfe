"""Keys and values kept from positions already read, so that a run goes on from there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model.masks import Mask, causal_mask

__all__ = ["ExtendKV", "KVCache"]

ExtendKV = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the new keys and values of one layer, `"batch kv_head new_pos d_head"`, and returns those of all positions to attend to."""


class KVCache:
    """Room for the keys and values of `n_slots` positions in every layer; slot p holds position p.

    The rows of a batch may be at different positions: a row never sees slots after its own position, so what lies there is of no
    account. Keys are kept as attention uses them, after rotation.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int = 1,
        n_slots: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not config.is_causal:
            raise ValueError("keys and values of a bidirectional model change with every new token: run it without a cache")
        self.n_slots = n_slots or config.n_ctx
        shape = (batch, config.n_kv_heads, self.n_slots, config.d_head)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self._lengths = [0] * config.n_layers

    def length(self, layer: int = 0) -> int:
        """Return how many slots this layer has filled: those of the longest row."""
        return self._lengths[layer] if self._lengths else 0

    def extend(
        self,
        layer: int,
        positions: Int[Tensor, "*batch new_pos"],
        k: Float[Tensor, "batch kv_head new_pos d_head"],
        v: Float[Tensor, "batch kv_head new_pos d_head"],
    ) -> tuple[Float[Tensor, "batch kv_head k_pos d_head"], Float[Tensor, "batch kv_head k_pos d_head"]]:
        """Put new keys and values in the slots of their positions and return all filled so far.

        Raises ValueError when they do not fit.
        """
        end = self._lengths[layer] + k.shape[-2]
        if end > self.n_slots:
            raise ValueError(f"the cache has {self.n_slots} slots and {end} positions are to be kept")
        self._lengths[layer] = end
        for slots, new in ((self.k[layer], k), (self.v[layer], v)):
            _put(slots, positions, new)
        return self.k[layer][:, :, :end], self.v[layer][:, :, :end]

    def first_slots(self, n_slots: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return each layer's first `n_slots` keys and values, the very memory of the cache."""
        return [k[:, :, :n_slots] for k in self.k], [v[:, :, :n_slots] for v in self.v]

    def advance(self, n_new: int) -> None:
        """Count slots that someone else has filled through `first_slots`."""
        self._lengths = [length + n_new for length in self._lengths]

    def select_rows(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Keep these rows of the batch, in this order; a row may be taken more than once."""
        self.k = [k[rows] for k in self.k]
        self.v = [v[rows] for v in self.v]

    def rewind(self, n_slots: int) -> None:
        """Forget what lies in the slots from `n_slots` on."""
        self._lengths = [min(length, n_slots) for length in self._lengths]

    def mask(self, positions: Int[Tensor, "*batch new_pos"], layer: int = 0) -> Mask:
        """Return which slots the new positions may see in the run that adds them.

        Raises ValueError unless they follow what is filled; a row that lags behind the longest may be at an earlier position.
        """
        start, n_new = self.length(layer), positions.shape[-1]
        if self.k and not torch.compiler.is_compiling():
            first, last = int(positions.min()), int(positions.max())
            if last >= start + n_new or (positions.ndim == 1 and (first, last) != (start, start + n_new - 1)):
                raise ValueError(f"positions {first} to {last} do not follow the {start} in the cache")
        if positions.ndim == 1 and start == 0:
            return "causal"
        if positions.ndim == 1 and n_new == 1:
            return None  # every slot filled is earlier
        return causal_mask(positions, torch.arange(start + n_new, device=positions.device))


def _put(slots: Tensor, positions: Tensor, new: Tensor) -> None:
    if positions.ndim == 1:
        slots.index_copy_(2, positions, new)
    else:
        slots.scatter_(2, positions[:, None, :, None].expand_as(new), new)
