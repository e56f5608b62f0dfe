"""Rows of a store in random order, at the speed at which a disk reads stretches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cutaway.interp.store.shards import RowRange, ShardedRows

__all__ = ["shuffled_batches"]

_BLOCK_BYTES = 2**18
"""What is read in one piece: enough for a disk to read at full speed, little beside the buffer."""
_BUFFER_BYTES = 2**27
"""Of the blocks that are mixed with one another, which come from anywhere in the store."""


def shuffled_batches(rows: ShardedRows | RowRange, batch_size: int, *, seed: int, n_epochs: int) -> Iterator[Tensor]:
    """Yield every row once an epoch, `batch_size` at a time, the last batch of an epoch perhaps smaller.

    Blocks come in an order drawn from the seed and the epoch, over all shards; so many as the buffer holds are mixed row by row, while
    a thread reads the next into a second one.
    """
    n_in_block = max(1, min(_BLOCK_BYTES // rows.row_bytes, len(rows)))
    blocks = [range(first, min(first + n_in_block, len(rows))) for first in range(0, len(rows), n_in_block)]
    n_in_buffer = max(1, min(_BUFFER_BYTES // (n_in_block * rows.row_bytes), len(blocks)))
    buffers = [torch.empty(n_in_buffer * n_in_block, *rows.shape, dtype=rows.dtype) for _ in range(2)]
    with ThreadPoolExecutor(1, "store") as reader:
        for epoch in range(n_epochs):
            random = np.random.default_rng((seed, epoch))
            order = random.permutation(len(blocks))
            groups = [
                [blocks[block] for block in order[first : first + n_in_buffer]] for first in range(0, len(order), n_in_buffer)
            ]
            ahead, rest = reader.submit(_read, rows, groups[0], buffers[0]), buffers[0][:0]
            for number in range(len(groups)):
                buffer = ahead.result()
                if number + 1 < len(groups):
                    ahead = reader.submit(_read, rows, groups[number + 1], buffers[(number + 1) % 2])
                places = torch.from_numpy(random.permutation(len(buffer)))
                for chosen in _cut(places, first=batch_size - len(rest), others=batch_size):
                    batch = buffer.index_select(0, chosen)  # several times as fast as buffer[chosen]
                    batch = torch.cat([rest, batch]) if len(rest) else batch
                    rest = batch if len(batch) < batch_size else batch[:0]
                    if len(batch) == batch_size:
                        yield batch
            if len(rest):
                yield rest


def _read(rows: ShardedRows | RowRange, blocks: Sequence[range], buffer: Tensor) -> Tensor:
    """Return the rows of these blocks, end to end, at the beginning of the buffer."""
    done = 0
    for block in blocks:
        rows.span(block.start, block.stop, into=buffer[done : done + len(block)])
        done += len(block)
    return buffer[:done]


def _cut(places: Tensor, *, first: int, others: int) -> Iterator[Tensor]:
    """Yield the first so many of them, and then the others in equal parts."""
    yield places[:first]
    yield from places[first:].split(others) if len(places) > first else ()
