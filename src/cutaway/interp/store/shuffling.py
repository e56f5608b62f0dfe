"""Rows of a store in random order, at the speed at which a disk reads stretches of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cutaway.interp.store.shards import ShardedRows

__all__ = ["shuffled_batches"]

_BLOCK_BYTES = 2**18
"""What is read in one piece: enough for a disk to read at full speed, little beside the buffer."""
_BUFFER_BYTES = 2**27
"""Of the blocks that are mixed with one another, which come from anywhere in the store."""


def shuffled_batches(rows: ShardedRows, batch_size: int, *, seed: int, n_epochs: int) -> Iterator[Tensor]:
    """Yield every row once an epoch, `batch_size` at a time, the last batch of an epoch perhaps smaller.

    Blocks come in an order drawn from the seed and the epoch, over all shards; so many as the buffer holds are mixed row by row, while
    a thread reads the next.
    """
    n_in_block = max(1, _BLOCK_BYTES // rows.row_bytes)
    n_blocks = -(-len(rows) // n_in_block)
    n_in_buffer = max(1, _BUFFER_BYTES // (n_in_block * rows.row_bytes))
    with ThreadPoolExecutor(1, "store") as reader:
        for epoch in range(n_epochs):
            random = np.random.default_rng((seed, epoch))
            order = random.permutation(n_blocks)
            groups = [order[first : first + n_in_buffer] for first in range(0, n_blocks, n_in_buffer)]
            ahead, rest = reader.submit(_blocks, rows, groups[0], n_in_block), None
            for number in range(len(groups)):
                buffer = ahead.result()
                if number + 1 < len(groups):
                    ahead = reader.submit(_blocks, rows, groups[number + 1], n_in_block)
                mixed = buffer[torch.from_numpy(random.permutation(len(buffer)))]
                mixed = mixed if rest is None else torch.cat([rest, mixed])
                n_whole = len(mixed) // batch_size * batch_size
                yield from mixed[:n_whole].split(batch_size) if n_whole else ()
                rest = mixed[n_whole:].clone()
            if rest is not None and len(rest):
                yield rest


def _blocks(rows: ShardedRows, blocks: np.ndarray, n_in_block: int) -> Tensor:
    """Return the rows of these blocks, end to end."""
    spans = [(int(block) * n_in_block, min((int(block) + 1) * n_in_block, len(rows))) for block in blocks]
    x = torch.empty(sum(stop - start for start, stop in spans), *rows.shape, dtype=rows.dtype)
    done = 0
    for start, stop in spans:
        rows.span(start, stop, into=x[done : done + stop - start])
        done += stop - start
    return x
