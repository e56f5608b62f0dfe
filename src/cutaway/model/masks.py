"""Masks: which keys a query may see."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Mask", "causal_mask", "explicit_mask"]

Mask = Bool[Tensor, "*broadcast #q_pos #k_pos"] | Literal["causal"] | None
"""True where a query sees a key; "causal" for the keys not after it, queries being the last positions; None for all."""


def explicit_mask(mask: Mask, n_queries: int, n_keys: int, device: torch.device) -> Bool[Tensor, "*broadcast #q_pos #k_pos"] | None:
    """Return a mask as a tensor, or None for all; raises ValueError for a word that is not "causal"."""
    if not isinstance(mask, str):
        return mask
    if mask != "causal":
        raise ValueError(f"mask is {mask!r}; expected 'causal', a tensor of booleans, or None")
    positions = torch.arange(n_keys, device=device)
    return causal_mask(positions[-n_queries:], positions)


def causal_mask(
    q_positions: Int[Tensor, "*batch q_pos"], k_positions: Int[Tensor, "*#batch k_pos"]
) -> Bool[Tensor, "*batch q_pos k_pos"]:
    """Return where a query sees a key: at its own position or an earlier one."""
    return k_positions.unsqueeze(-2) <= q_positions.unsqueeze(-1)
