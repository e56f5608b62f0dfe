"""Masks: which keys a query may see."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Mask", "causal_mask"]

Mask = Bool[Tensor, "*broadcast q_pos k_pos"] | Literal["causal"] | None
"""True where a query sees a key; "causal" for the keys not after it; None for all."""


def causal_mask(
    q_positions: Int[Tensor, "*batch q_pos"], k_positions: Int[Tensor, "*#batch k_pos"]
) -> Bool[Tensor, "*batch q_pos k_pos"]:
    """Return where a query sees a key: at its own position or an earlier one."""
    return k_positions.unsqueeze(-2) <= q_positions.unsqueeze(-1)
