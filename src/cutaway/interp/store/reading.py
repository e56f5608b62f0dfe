"""A store read back: every activation as one array over all shards, and the token that each row stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.hooks import canonical_name, nearest_names
from cutaway.interp.rows import model_of
from cutaway.interp.store.manifest import Manifest, shard_name
from cutaway.interp.store.plan import StorePlan
from cutaway.interp.store.shards import RowRange, ShardedRows
from cutaway.interp.store.shuffling import shuffled_batches
from cutaway.interp.training_data import TrainingData
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import check_holds, file_sha256
from cutaway.weights import model_sha256

__all__ = ["TOKENS", "ActivationStore", "StoredActivation", "StoredTokens", "open_store"]

TOKENS = "tokens"
"""What the token ids of a shard's windows are called in its file."""

_ROWS_AT_ONCE = 2**24  # bytes that a mean reads together


class StoredActivation:
    """One activation of every token, `"token d_model"` or as its axes are; read like a tensor, from the disk, where it is asked for.

    >>> import cutaway, torch
    >>> text = "def f(x):\\n    return x\\n" * 100
    >>> kept = cutaway.store.collect(cutaway.load("stdlib-1l"), text, "blocks.0.resid_post", "activations")
    >>> x = kept["blocks.0.resid_post"]
    >>> x[0].shape, x[100:200].shape, x[torch.tensor([5, 3])].shape, x.mean().shape
    (torch.Size([64]), torch.Size([100, 64]), torch.Size([2, 64]), torch.Size([64]))
    """

    def __init__(
        self,
        name: str,
        rows: ShardedRows | RowRange,
        *,
        n_learned: int,
        data: TrainingData,
        is_flat: bool = False,
    ) -> None:
        self.name, self._rows, self._n_learned, self._data, self._is_flat = name, rows, n_learned, data, is_flat

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StoredActivation({self.name!r}, {list(self.shape)}, {str(self.dtype).removeprefix('torch.')})"

    @property
    def shape(self) -> torch.Size:
        """The rows, and the shape of one."""
        return torch.Size((len(self), *((self.d,) if self._is_flat else self._rows.shape)))

    @property
    def dtype(self) -> torch.dtype:
        """What it is stored in."""
        return self._rows.dtype

    @property
    def d(self) -> int:
        """The numbers of one row."""
        return math.prod(self._rows.shape)

    def flattened(self) -> StoredActivation:
        """Return the same with rows of one axis: those of heads, `"token head d_head"`, as `"token d"`."""
        return self._of(self._rows, is_flat=True)

    @property
    def training_data(self) -> TrainingData | None:
        """What is learned from by who learns from these rows; None for those that are held out."""
        if isinstance(self._rows, RowRange):
            return None if self._rows.start else self._data
        return replace(self._data, n_learned=self._data.n_tokens)

    def split(self) -> tuple[StoredActivation, StoredActivation]:
        """Return the rows to learn from, and those of the last tenth of the windows, which are held out from it.

        Raises ValueError for a store of so few windows that one part has none, and for rows that are a part already.
        """
        if isinstance(self._rows, RowRange):
            raise ValueError("these rows are a part of a store already: split all of them")  # noqa: TRY004  (what a user did)
        if not 0 < self._n_learned < len(self):
            raise ValueError(f"the store has {len(self)} rows in too few windows to hold some out: collect more tokens")
        learned, held_out = RowRange(self._rows, 0, self._n_learned), RowRange(self._rows, self._n_learned, len(self))
        return self._of(learned, is_flat=self._is_flat), self._of(held_out, is_flat=self._is_flat)

    def _of(self, rows: ShardedRows | RowRange, *, is_flat: bool) -> StoredActivation:
        return StoredActivation(self.name, rows, n_learned=self._n_learned, data=self._data, is_flat=is_flat)

    def __getitem__(self, index: int | slice | Int[Tensor, " row"]) -> Float[Tensor, "..."]:
        """Return one row, a stretch of rows, or rows in any order; raises IndexError for one that is not there."""
        found = _read(self._rows, index)
        return found.flatten(0 if isinstance(index, int) else 1) if self._is_flat else found

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch *d"]]:
        """Yield every row once an epoch in an order that the seed gives, `batch_size` at a time; an epoch's last batch may be smaller.

        Rows are read as stretches of about 256 kB from anywhere in the store, and mixed in a buffer of 128 MiB. Raises ValueError for
        numbers below 1.
        """
        if batch_size < 1 or n_epochs < 1:
            raise ValueError(f"batch_size is {batch_size} and n_epochs {n_epochs}; expected at least 1 of each")
        found = shuffled_batches(self._rows, batch_size, seed=seed, n_epochs=n_epochs)
        return (batch.flatten(1) for batch in found) if self._is_flat else found

    def mean(self) -> Float[Tensor, "*d"]:
        """Return the mean row, added up in float64 and given in float32 at least."""
        total = torch.zeros(self._rows.shape, dtype=torch.float64)
        step = max(1, _ROWS_AT_ONCE // self._rows.row_bytes)
        for start in range(0, len(self), step):
            total += self._rows.span(start, min(start + step, len(self))).sum(0, dtype=torch.float64)
        mean = (total / len(self)).to(torch.promote_types(self.dtype, torch.float32))
        return mean.flatten() if self._is_flat else mean


class StoredTokens:
    """The token of every row, and where it stood: `tokens[row]` is its id, `windows` and `positions` the window and the place there."""

    def __init__(self, ids: ShardedRows, plan: StorePlan) -> None:
        self._ids, self._plan = ids, plan
        self._per_window = plan.n_ctx - plan.skip_first

    def __len__(self) -> int:
        return self._plan.n_rows

    def __getitem__(self, index: int | slice | Int[Tensor, " row"]) -> Int[Tensor, "..."]:
        """Return the ids of rows; raises IndexError for one that is not there."""
        rows = _numbers(index, len(self))
        places = rows // self._per_window * self._plan.n_ctx + rows % self._per_window + self._plan.skip_first
        ids = self._ids.take(places).long()
        return ids[0] if isinstance(index, int) else ids

    def windows(self, rows: Int[Tensor, " row"] | None = None) -> Int[Tensor, " row"]:
        """Return which window each of these rows, or each there is, belongs to: of tokens given as rows, which of those."""
        return self._all(rows) // self._per_window

    def positions(self, rows: Int[Tensor, " row"] | None = None) -> Int[Tensor, " row"]:
        """Return at which position of its window each of these rows, or each there is, stood."""
        return self._all(rows) % self._per_window + self._plan.skip_first

    def of_windows(self, windows: range) -> Int[Tensor, "window pos"]:
        """Return all ids of these windows, also of positions that have no row, leaving out a shorter one at the end."""
        n_ctx = self._plan.n_ctx
        stop = min(windows.stop, len(self._ids) // n_ctx)
        return self._ids.span(windows.start * n_ctx, stop * n_ctx).long().view(-1, n_ctx)

    def context(self, row: int, *, before: int = 10, after: int = 5) -> tuple[Int[Tensor, " pos"], int]:
        """Return the ids around a row's token, as far as its window goes, and where among them its own stands."""
        (number,) = _numbers(row, len(self)).tolist()
        window, place = divmod(number, self._per_window)
        place += self._plan.skip_first
        begin, end = window * self._plan.n_ctx, min((window + 1) * self._plan.n_ctx, len(self._ids))
        start, stop = max(begin, begin + place - before), min(end, begin + place + after + 1)
        return self._ids.span(start, stop).long(), begin + place - start

    def _all(self, rows: Tensor | None) -> Tensor:
        return torch.arange(len(self)) if rows is None else torch.from_numpy(_numbers(rows, len(self)))


class ActivationStore:
    """A folder of activations: `store["blocks.9.resid_post"]`, in either spelling, and `store.tokens`.

    >>> import cutaway
    >>> text = "def f(x):\\n    return x\\n" * 100
    >>> kept = cutaway.store.collect(cutaway.load("stdlib-1l"), text, "blocks.0.resid_post", "activations")
    >>> cutaway.store.open_store("activations")["blocks.0.resid_post"].shape == kept["blocks.0.resid_post"].shape
    True
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._plan = manifest, manifest.plan()

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.folder)!r}, {', '.join(self.names)}, {self.n_tokens:,} tokens, {self.gib:.3g} GiB)"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._manifest.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """Where it comes from: model, data, tokenizer, layout, versions."""
        return self._manifest.about

    @property
    def plan(self) -> StorePlan:
        """How it is laid out."""
        return self._plan

    @property
    def names(self) -> tuple[str, ...]:
        """The activations in the order of the computation."""
        return self._plan.names

    @property
    def n_tokens(self) -> int:
        """How many tokens have a row."""
        return self._plan.n_rows

    @property
    def dtype(self) -> torch.dtype:
        """What activations are stored in."""
        return self._plan.dtype

    @property
    def gib(self) -> float:
        """The size of its shards."""
        return sum(record.n_bytes for record in self._manifest.shards.values()) / 2**30

    @property
    def tokens(self) -> StoredTokens:
        """The token of every row, and where it stood."""
        ends = [self._plan.shard_tokens(shard).stop for shard in range(self._plan.n_shards)]
        return StoredTokens(self._rows(TOKENS, (), torch.int32, ends), self._plan)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical_name(name) in self._plan.shapes

    def __getitem__(self, name: str) -> StoredActivation:
        """Return an activation; raises ValueError for one that the store does not hold."""
        full = canonical_name(name)
        if full not in self._plan.shapes:
            held = ", ".join(self.names) if len(self.names) <= 6 else f"{len(self.names)} others{nearest_names([full], self.names)}"
            raise ValueError(f"the store in {self.folder} holds no {full!r}; it holds {held}: name one of these, or collect it")
        ends = [self._plan.shard_rows(shard).stop for shard in range(self._plan.n_shards)]
        rows = self._rows(full, self._plan.shapes[full], self.dtype, ends)
        n_learned = self._plan.rows_before(self._plan.n_windows_learned * self._plan.n_ctx)
        return StoredActivation(full, rows, n_learned=n_learned, data=self.training_data)

    @property
    def training_data(self) -> TrainingData:
        """What is learned from, where the last tenth of the windows is held out from it."""
        data, n_learned = self.manifest["data"], self._plan.n_windows_learned * self._plan.n_ctx
        return TrainingData(source=data["source"], sha256=data["sha256"], n_tokens=data["n_tokens"], n_learned=n_learned)

    @property
    def held_out_windows(self) -> range:
        """The windows that are held out from training: the last tenth."""
        return range(self._plan.n_windows_learned, self._plan.n_windows)

    def check_model(self, lm: LanguageModel | Transformer) -> None:
        """Raise ValueError unless these are the activations of this model, by its hash."""
        made_by, found = self.manifest["model"], model_sha256(model_of(lm))
        if found != made_by["sha256"]:
            named = f"{made_by['source']}, " if made_by["source"] else ""
            raise ValueError(
                f"the store in {self.folder} is of another model ({named}sha256 {made_by['sha256'][:12]}) than this (sha256 "
                f"{found[:12]}): take that model, or collect a store of this one"
            )

    def verify(self) -> None:
        """Hold every shard against the hash recorded when it was written; raises ValueError for the first that is not the same."""
        for shard, record in sorted(self._manifest.shards.items()):
            path = self.folder / shard_name(shard)
            if not path.is_file() or file_sha256(path) != record.sha256:
                is_there = "is damaged (its sha256 is not the one recorded)" if path.is_file() else "is missing"
                raise ValueError(f"{path} {is_there}: remove it, and collect again with the same arguments, which makes it anew")

    def _rows(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, ends: list[int]) -> ShardedRows:
        paths = tuple(self.folder / shard_name(shard) for shard in range(self._plan.n_shards))
        return ShardedRows(name, shape, dtype, paths, tuple(ends))


def open_store(folder: Path | str) -> ActivationStore:
    """Open a store, reading its manifest alone; raises ValueError for a folder that is none, or whose shards are not all whole."""
    folder = Path(folder)
    made_by = "`cutaway interpret store MODEL --data CORPUS --names NAME --out FOLDER` makes one"
    check_holds(folder, "manifest.json", "no store of activations", made_by=made_by)
    manifest = Manifest.read(folder)
    assert manifest is not None  # or it was refused above
    if missing := manifest.missing():
        n_shards, first = manifest.plan().n_shards, shard_name(missing[0])
        raise ValueError(
            f"the store in {folder} has {n_shards - len(missing)} of {n_shards} shards whole ({first} is missing or cut short): "
            "collect again with the same arguments, which makes what is missing"
        )
    return ActivationStore(manifest)


def _numbers(index: int | slice | Tensor, n: int) -> np.ndarray:
    """Return the numbers of rows that an index stands for; raises IndexError for one that is not there."""
    if isinstance(index, slice):
        return np.arange(*index.indices(n))
    if isinstance(index, Tensor) and (index.dtype == torch.bool or index.is_floating_point() or index.ndim != 1):
        raise IndexError(
            f"rows are asked for by {index.dtype} of shape {list(index.shape)}; expected their numbers, one axis of them"
        )
    rows = np.atleast_1d(index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)).astype(np.int64)
    if rows.size and not -n <= rows.min() <= rows.max() < n:
        wrong = int(rows.min()) if rows.min() < -n else int(rows.max())
        raise IndexError(f"there is no row {wrong}; there are {n}, 0 to {n - 1}")
    return np.where(rows < 0, rows + n, rows)


def _read(rows: ShardedRows | RowRange, index: int | slice | Tensor) -> Tensor:
    if isinstance(index, slice) and index.step in (None, 1):
        start, stop, _ = index.indices(len(rows))
        return rows.span(start, max(start, stop))
    found = rows.take(_numbers(index, len(rows)))
    return found[0] if isinstance(index, int) else found
