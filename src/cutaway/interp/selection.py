"""Which part of an activation an edit takes, along its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.sites import Axes

__all__ = ["Selection", "Places"]

Places = int | tuple[int, ...] | None
"""Where along one axis; None is everywhere."""

_SELECTS = {"pos": "pos", "q_pos": "pos", "head": "head", "kv_head": "head"}


@dataclass(frozen=True)
class Selection:
    """Places along each axis of one row of an activation, its batch axis left out; an int drops its axis."""

    axes: Axes
    places: tuple[Places, ...]

    @classmethod
    def of(
        cls,
        axes: Axes,
        *,
        head: int | Sequence[int] | None = None,
        pos: int | Sequence[int] | None = None,
        index: int | Sequence[int] | None = None,
    ) -> Selection:
        """Return the selection of an edit with these fields."""
        given = {"head": head, "pos": pos, "index": index}
        row_axes = axes[1:]
        chosen = (given[_SELECTS.get(axis, "index" if axis == row_axes[-1] else "none")] for axis in row_axes)
        return cls(row_axes, tuple(each if each is None or isinstance(each, int) else tuple(each) for each in chosen))

    def resolved(self, shape: Sequence[int], *, what: str, length: int | None = None) -> Selection:
        """Return it with places counted from 0; positions count from the end of the row's `length` tokens where negative.

        Raises ValueError for places that are not there.
        """
        sizes = [length if length is not None and "pos" in axis else size for axis, size in zip(self.axes, shape, strict=True)]
        places = (_counted(each, size, axis, what) for each, size, axis in zip(self.places, sizes, self.axes, strict=True))
        return replace(self, places=tuple(places))

    @property
    def position_axis(self) -> int:
        """Which axis counts positions: those of queries, where there are keys too."""
        return self.axes.index("q_pos" if "q_pos" in self.axes else "pos")

    def at(self, positions: Sequence[int]) -> Selection:
        """Return the same at these positions."""
        axis = self.position_axis
        return replace(self, places=(*self.places[:axis], tuple(positions), *self.places[axis + 1 :]))

    def read(self, x: Float[Tensor, "*batch ..."]) -> Float[Tensor, "*batch ..."]:
        """Return what is selected, of rows or of one row."""
        for axis, each in enumerate(self.places):
            dim = axis - len(self.axes)
            if isinstance(each, tuple):
                x = x.index_select(dim, torch.tensor(each, device=x.device))
        return self._dropping(x)

    def write(self, x: Float[Tensor, "*batch ..."], new: Float[Tensor, "*#batch ..."]) -> None:
        """Put `new` in the place of what is selected, in the memory of `x`."""
        kept = [each for each in self.places if not isinstance(each, int)]
        several = [(axis - len(kept), each) for axis, each in enumerate(kept) if each is not None]
        if not several:
            self._dropping(x).copy_(new)
            return
        if len(several) == 1:
            (dim, chosen), part = several[0], self._dropping(x)
            size = [*part.shape[:dim], len(chosen), *part.shape[part.ndim + dim + 1 :]]
            part.index_copy_(dim, torch.tensor(chosen, device=x.device), new.expand(size))
            return
        rows, sizes = x.shape[: x.ndim - len(self.axes)], x.shape[x.ndim - len(self.axes) :]
        places = [_as_tensor(each, size, x.device) for each, size in zip(self.places, sizes, strict=True)]
        grid = [torch.arange(n, device=x.device) for n in rows] + places
        full = new.expand(
            *rows, *(len(each) for each, place in zip(places, self.places, strict=True) if not isinstance(place, int))
        )
        x[torch.meshgrid(*grid, indexing="ij")] = full.reshape(*rows, *map(len, places))

    def _dropping(self, x: Tensor) -> Tensor:
        """Return a view of `x` at the places that are ints."""
        for axis in range(len(self.axes)):  # from the first: those after it keep their distance from the end
            if isinstance(each := self.places[axis], int):
                x = x.select(axis - len(self.axes), each)
        return x


def _counted(places: Places, size: int, axis: str, what: str) -> Places:
    for place in () if places is None else (places,) if isinstance(places, int) else places:
        if not -size <= place < size:
            raise ValueError(f"{what}: there is no {axis} {place}; there are {size}, 0 to {size - 1}")
    if places is None or isinstance(places, int):
        return None if places is None else places % size
    counted = tuple(place % size for place in places)
    if len(set(counted)) < len(counted):
        raise ValueError(f"{what}: {axis} {list(places)} names a place twice")
    return counted


def _as_tensor(places: Places, size: int, device: torch.device) -> Tensor:
    if places is None:
        return torch.arange(size, device=device)
    return torch.tensor([places] if isinstance(places, int) else places, device=device)
