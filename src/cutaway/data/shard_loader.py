"""Batches of the shards of documents, also while later shards are still being written."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cutaway.data.document_shards import DocumentShards
from cutaway.data.document_writing import is_being_written
from cutaway.data.loader import Batch, batch_of, to_device
from cutaway.data.shards import TokenArray

__all__ = ["ShardLoader", "ShardsError", "View", "wait_for_pair"]

_ASK_S, _WORD_S = 0.2, 5.0
_PATIENCE_S = 60.0
"""How long a shard is waited for while nobody writes: who goes on with the writing may still be starting."""

View = Callable[[DocumentShards], DocumentShards]
"""What a reader sees of a folder's shards: all of them, or those `within` a cap."""


class ShardsError(RuntimeError):
    """Shards that a run waits for will not come."""


class ShardLoader:
    """Windows of `n_ctx` tokens of shards to train on, each once in an epoch, `batch_size` at a time.

    The shards come in their order, so that the first can be read while the next are written, and the windows of each in a random
    one. Documents are packed: a window may hold the end of one, `<|endoftext|>` and the beginning of the next; none crosses from one
    shard to another. Batch i is a function of the shards, `seed` and i alone, so the state is one number, and a run continues as if
    it had never stopped. Processes that share each batch take its `rows`. `view` is what it sees of the folder. Raises ValueError
    where no shard has one window.
    """

    def __init__(
        self,
        shards: DocumentShards,
        *,
        batch_size: int,
        n_ctx: int,
        seed: int,
        rows: slice = slice(None),
        view: View = lambda shards: shards,
    ) -> None:
        self._batch_size, self._n_ctx, self._seed = batch_size, n_ctx, seed
        self._rows, self._view = rows, view
        self._n_drawn = 0
        self._looked_s, self._written_s = 0.0, time.monotonic()
        self._opened: dict[int, TokenArray] = {}
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._count(shards)

    def next_batch(self, device: torch.device | str = "cpu") -> Batch:
        """Return the next batch, onto `device`, as soon as its shards are there; raises ShardsError where nobody writes them."""
        while not self.has(1):
            time.sleep(_ASK_S)
        first = self._n_drawn * self._batch_size
        windows = [self._window(number) for number in range(first, first + self._batch_size)[self._rows]]
        self._n_drawn += 1
        return to_device(batch_of(windows), device)

    def has(self, n_batches: int) -> bool:
        """Return whether the shards of so many batches more are there; raises ShardsError where nobody has written for long."""
        n_windows = (self._n_drawn + n_batches) * self._batch_size
        if self._has_windows(n_windows):
            return True
        if (now := time.monotonic()) - self._looked_s < _ASK_S:
            return False
        self._looked_s = now
        folder = self._shards.folder
        if is_being_written(folder):  # asked first: who ends between the two questions has written what there is
            self._written_s = now
        self._count(self._view(DocumentShards.open(folder)))
        if not (is_there := self._has_windows(n_windows)) and now - self._written_s > _PATIENCE_S:
            raise ShardsError(_nobody_writes(folder, len(self._shards.pairs)))
        return is_there

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands, as JSON values."""
        return {"seed": self._seed, "n_drawn": self._n_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where another loader over the same shards stood."""
        self._seed, self._n_drawn = state["seed"], state["n_drawn"]

    def _has_windows(self, n_windows: int) -> bool:
        """Whether so many windows can be read, counted over the epochs; the first ends where the shards do, once all are there."""
        n_there = self._ends[-1] if self._ends else 0
        if self._shards.is_complete and not n_there:
            n_most = max((pair.train.n_tokens for pair in self._shards.pairs), default=0)
            raise ValueError(
                f"the shards in {self._shards.folder} have {n_most} tokens to train on at most and a window takes "
                f"{self._n_ctx + 1} (n_ctx and the token after it): give more documents or a smaller n_ctx"
            )
        return self._shards.is_complete or n_windows <= n_there

    def _window(self, number: int) -> TokenArray:
        """Return one of all the windows that there ever are, counted over the epochs."""
        n_there = self._ends[-1]
        epoch, number = divmod(number, n_there) if self._shards.is_complete else (0, number)
        shard = bisect_right(self._ends, number)
        n_windows = self._n_windows[shard]
        if (epoch, shard) not in self._orders:
            order = np.random.default_rng((self._seed, epoch, shard)).permutation(n_windows)
            self._orders = {(epoch, shard): order}
        if shard not in self._opened:
            self._opened = {shard: self._shards.read("train", shard)}
        place = self._orders[epoch, shard][number - (self._ends[shard] - n_windows)]
        return self._opened[shard][place * self._n_ctx : (place + 1) * self._n_ctx + 1]

    def _count(self, shards: DocumentShards) -> None:
        """Take over what there is now: how many windows each shard has, and how many there are up to its end."""
        self._shards = shards
        self._n_windows = [max(0, pair.train.n_tokens - 1) // self._n_ctx for pair in shards.pairs]
        self._ends = list(accumulate(self._n_windows))


def wait_for_pair(folder: Path, *, view: View = lambda shards: shards, is_coming: Callable[[], bool]) -> DocumentShards:
    """Return the shards of a folder once the first pair is there; raises ShardsError where it is not and none `is_coming`."""
    started, has_told = time.monotonic(), False
    while True:
        will_come = is_coming()  # asked first, as above
        shards = view(DocumentShards.open(folder)) if DocumentShards.are_in(folder) else None
        if shards is not None and shards.pairs:
            return shards
        if not will_come:
            raise ShardsError(_nobody_writes(folder, 0))
        if not has_told and time.monotonic() - started > _WORD_S:
            warnings.warn(f"waiting for the first shards in {folder}, which are still being made", stacklevel=2)
            has_told = True
        time.sleep(_ASK_S)


def _nobody_writes(folder: Path, number: int) -> str:
    return (
        f"shard {number} of {folder} is not there and nobody writes it: make the shards again with the same arguments, which goes on "
        "where it stopped, and then go on with the run"
    )
