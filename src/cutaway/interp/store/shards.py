"""The rows of all shards as one array, read where they are asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["RowRange", "ShardedRows"]

_NUMPY = {torch.float64: "<f8", torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "<u2", torch.int32: "<i4"}
"""What a dtype is to numpy; bfloat16, which it lacks, its bits."""


@dataclass(frozen=True, eq=False)
class ShardedRows:
    """One tensor of every shard, end to end, each row of the same shape. Nothing is held between reads but where tensors begin."""

    name: str
    shape: tuple[int, ...]
    """That of one row."""
    dtype: torch.dtype
    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    """How many rows there are up to the end of each shard."""
    _offsets: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def span(self, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        """Return the rows from one up to another, in memory that is given or new."""
        x = torch.empty(stop - start, *self.shape, dtype=self.dtype) if into is None else into
        done = start
        while done < stop:
            shard = int(np.searchsorted(self.ends, done, side="right"))
            high = min(stop, self.ends[shard])
            self._read(shard, done - self._begin(shard), x[done - start : high - start])
            done = high
        return x

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return rows in any order, each shard that has some being mapped once."""
        x = torch.empty(len(rows), *self.shape, dtype=self.dtype)
        target, shards = self._bits(x), np.searchsorted(self.ends, rows, side="right")
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            begin = self._begin(shard)
            offset, shape = self._offset(shard), (self.ends[shard] - begin, *self.shape)
            mapped = np.memmap(self.paths[shard], dtype=_NUMPY[self.dtype], mode="r", offset=offset, shape=shape)
            target[places] = mapped[rows[places] - begin]
        return x

    def _begin(self, shard: int) -> int:
        return self.ends[shard - 1] if shard else 0

    def _read(self, shard: int, first: int, into: Tensor) -> None:
        view = self._bits(into).data.cast("B")
        offset = self._offset(shard) + first * self.row_bytes
        with self.paths[shard].open("rb", buffering=0) as file:
            n_read = 0
            while n_read < len(view):  # a read may stop short of what it was asked for
                n_new = os.preadv(file.fileno(), [view[n_read:]], offset + n_read)
                if not n_new:
                    raise ValueError(f"{self.paths[shard]} is cut short: {_MAKE_ANEW}")
                n_read += n_new

    def _bits(self, x: Tensor) -> npt.NDArray[np.generic]:
        return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()

    def _offset(self, shard: int) -> int:
        """Return where the tensor begins in the file of a shard, from its header, which is read once."""
        if shard not in self._offsets:
            n_rows = self.ends[shard] - self._begin(shard)
            self._offsets[shard] = _offset_of(self.paths[shard], self.name, (n_rows, *self.shape), self.row_bytes)
        return self._offsets[shard]


@dataclass(frozen=True, eq=False)
class RowRange:
    """Some of these rows, from one up to another, read as all of them are."""

    rows: ShardedRows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one row."""
        return self.rows.shape

    @property
    def dtype(self) -> torch.dtype:
        """What they are stored in."""
        return self.rows.dtype

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return self.rows.row_bytes

    def span(self, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        """Return the rows from one up to another, counted from the first of these."""
        return self.rows.span(self.start + start, self.start + stop, into)

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return rows in any order, counted from the first of these."""
        return self.rows.take(rows + self.start)


_MAKE_ANEW = "remove it, and collect again with the same arguments, which makes it anew"


def _offset_of(path: Path, name: str, shape: Sequence[int], row_bytes: int) -> int:
    """Return where a tensor begins in a safetensors file; raises ValueError for a file without it, or with one of another size."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= path.stat().st_size else {}
        begin, end = header[name]["data_offsets"]
        is_right = header[name]["shape"] == list(shape) and end - begin == shape[0] * row_bytes
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, as its header cannot be read ({error}): {_MAKE_ANEW}") from None
    if not is_right or 8 + length + end > path.stat().st_size:
        raise ValueError(f"{path} is damaged, as {name} is not {list(shape)} there: {_MAKE_ANEW}")
    return 8 + length + int(begin)
