"""How far two rankings of the same things agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["rank_correlation"]


def rank_correlation(
    one: Sequence[float] | Float[Tensor, " value"], other: Sequence[float] | Float[Tensor, " value"]
) -> float | None:
    """Return Spearman's rank correlation, equal values sharing their mean rank; None where either has no two different values."""
    values = torch.stack([torch.as_tensor(each, dtype=torch.float64, device="cpu") for each in (one, other)])
    if any(len(each.unique()) < 2 for each in values):
        return None
    return torch.corrcoef(torch.stack([_ranks(each) for each in values]))[0, 1].item()


def _ranks(x: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    _, group, count = torch.unique(x, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    ranks: Tensor = last - (count - 1) / 2
    return ranks[group]
