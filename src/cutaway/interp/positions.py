"""Positions of rows that may differ in length: counted from 0, or from each row's own end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["from_start", "of_all_rows", "at_places"]


def from_start(pos: int, n_pos: int, length: int) -> int:
    """Return a position of a row counted from 0; a negative one counts from the end of the row's `length` tokens.

    Raises ValueError for one that is not there.
    """
    if not -length <= pos < n_pos:
        n = length if pos < 0 else n_pos
        raise ValueError(f"there is no position {pos}; there are {n}, 0 to {n - 1}")
    return pos + length if pos < 0 else pos


def of_all_rows(pos: int | Sequence[int], n_pos: int, lengths: Sequence[int] | None) -> tuple[int, ...]:
    """Return positions as all rows have them: counted from 0, but for negative ones of rows that differ in length.

    Raises ValueError for one that is not there in every row.
    """
    given = (pos,) if isinstance(pos, int) else tuple(pos)
    counted = tuple(from_start(each, n_pos, n_pos if lengths is None else min(lengths)) for each in given)
    return counted if lengths is None else given


def at_places(x: Float[Tensor, "..."], places: Sequence[Sequence[int]], axis: int) -> Float[Tensor, "..."]:
    """Return what an activation has at places along an axis, counted from the last: the same in all rows, or each row's own."""
    if all(each == places[0] for each in places):
        return x.index_select(axis, torch.tensor(places[0], device=x.device))
    return torch.stack([row.index_select(axis, torch.tensor(each, device=x.device)) for row, each in zip(x, places, strict=True)])
