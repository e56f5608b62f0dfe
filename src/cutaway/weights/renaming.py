"""Tensors of other names and layouts: each row of a table says which of ours make one of theirs, to be read in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Renaming", "from_theirs", "to_theirs"]


class Renaming(NamedTuple):
    """One tensor of theirs and those of ours that lie in it one after another; `{layer}` and `{kind}` stand for each in turn.

    A Conv1D (OpenAI's GPT-2) multiplies from the right, so that its matrix is the transpose of a Linear's.
    """

    theirs: str
    ours: tuple[str, ...]
    is_conv1d: bool = False

    def named(self, **places: object) -> Renaming:
        """Return the row of one layer and kind."""
        return Renaming(self.theirs.format(**places), tuple(name.format(**places) for name in self.ours), self.is_conv1d)

    def split(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return our tensors as views of theirs."""
        return (_transposed(theirs) if self.is_conv1d else theirs).chunk(len(self.ours))

    def join(self, ours: Iterable[Tensor]) -> Tensor:
        """Return their tensor; where nothing changes it is ours itself."""
        parts = tuple(ours)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (_transposed(whole) if self.is_conv1d else whole).contiguous()


def from_theirs(rows: Mapping[str, Renaming], tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield our names and tensors for theirs, each in memory of its own; names that have no row are passed over."""
    for name, tensor in tensors:
        if row := rows.get(name):
            for ours, part in zip(row.ours, row.split(tensor), strict=True):
                yield ours, part.clone(memory_format=torch.contiguous_format)


def to_theirs(rows: Mapping[str, Renaming], tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield their names and tensors for ours, each as soon as all its parts have come."""
    places = {ours: (name, row) for name, row in rows.items() for ours in row.ours}
    parts: dict[str, dict[str, Tensor]] = {}
    for ours, tensor in tensors:
        name, row = places[ours]
        parts.setdefault(name, {})[ours] = tensor
        if len(parts[name]) == len(row.ours):
            yield name, row.join(map(parts.pop(name).__getitem__, row.ours))


def _transposed(x: Tensor) -> Tensor:
    return x.T if x.ndim == 2 else x  # a bias is as it is
