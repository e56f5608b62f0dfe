"""Activations of a corpus written to disk as the model runs, so that memory holds two shards of them, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from torch import Tensor

from cutaway.interp.rows import model_of
from cutaway.interp.store.forward import allocated, read_windows, record_batch
from cutaway.interp.store.manifest import Manifest, ShardRecord, check_folder, describe, shard_name
from cutaway.interp.store.plan import StorePlan, plan_store
from cutaway.interp.store.reading import TOKENS, ActivationStore, open_store
from cutaway.interp.store.stream import Data, TokenStream, open_stream
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.ranks import Ranks, sharing_ranks
from cutaway.report.numbers import format_bytes
from cutaway.runtime import LOCK, alone_in, atomic_path, clear_unfinished, file_sha256, free_memory_gib
from cutaway.views import without_dropout
from cutaway.weights import save_tensors

__all__ = ["Progress", "collect"]

Progress = Callable[[int, int], None]
"""Called with how many tokens are done, and of how many."""


def collect(
    lm: LanguageModel | Transformer,
    data: Data,
    names: str | Sequence[str],
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    ctx: int | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    skip_first: bool = False,
    shard_gib: float = 0.25,
    source: str = "",
    progress: Progress | None = None,
    announce: Callable[[], None] | None = None,
) -> ActivationStore:
    """Write the activations of these names or globs, for every token of a corpus, into a folder of safetensors, and open it.

    The tokens are cut into windows of `ctx`, 128 unless given or less where the model's context is shorter, and nothing is put before
    one; `batch_size` of them run at a time, up to the last activation wanted. `dtype` is what is stored, the model's own unless given.
    With `skip_first` the first position of a window is left out, whose activations are often far longer than all others. Memory beyond
    the model's is two shards of `shard_gib` and one batch's run. `source` is what the model is called in the manifest.
    `announce` is called once the arguments are found to be those of the store, before anything is written.

    A call with the same arguments goes on with a store that was stopped, and makes anew a shard that is lost: with as many threads the
    files are to the last bit those of a run never stopped. In `shared_work` each process makes a part of the shards.

    Raises ValueError for a store begun with other arguments, saying which; for a folder that holds other things; for names, numbers
    and tokens that do not fit; for more than the free memory or disk holds; OSError where the disk fills up after all: what is whole
    stays.

    >>> import cutaway
    >>> lm = cutaway.load("stdlib-1l")
    >>> kept = cutaway.store.collect(lm, "def f(x):\\n    return x\\n" * 100, "blocks.0.resid_post", "activations")
    >>> kept["blocks.0.resid_post"].shape  # token d_model
    torch.Size([2300, 64])
    """
    folder, model, stream = Path(folder), model_of(lm), open_stream(lm, data, max_tokens=max_tokens)
    layout: dict[str, Any] = {"ctx": ctx, "batch_size": batch_size, "skip_first": skip_first, "shard_gib": shard_gib}
    plan, ranks = plan_store(model, stream, names, dtype=dtype, **layout), sharing_ranks()
    stream.check(model.config.d_vocab)
    about = describe(lm, stream, plan, source=source)
    ranks.check_same("a store", lambda: f"{folder} {about}")
    manifest = ranks.from_first(lambda: _manifest(folder, about, plan))
    if announce is not None and ranks.is_first:
        announce()
    missing, is_left = ranks.from_first(lambda: (manifest.missing(), (folder / LOCK).exists()))
    if missing or is_left:  # the lock, by a process that was killed at the very end
        _check_room(plan, missing, folder, ranks)
        with ranks.entered_by_first(partial(_begun, manifest)):
            manifest.index = ranks.rank.index
            _Collection(without_dropout(model), stream, plan, manifest, progress or _say_nothing, ranks).run(missing)
            ranks.wait()
            if ranks.is_first:
                manifest.take_in()
    ranks.wait()
    return open_store(folder)


def _manifest(folder: Path, about: dict[str, Any], plan: StorePlan) -> Manifest:
    """Return the manifest that lies in a folder, or a new one; raises ValueError where the folder will not do."""
    begun = Manifest.read(folder)
    if begun is not None:
        begun.check_same(about)
    check_folder(folder, plan.n_shards if begun else 0)
    return begun or Manifest(folder, about)


@dataclass
class _Collection:
    """One run over what is missing: the model fills one shard's memory while a thread writes another's."""

    model: Transformer
    stream: TokenStream
    plan: StorePlan
    manifest: Manifest
    progress: Progress
    ranks: Ranks
    n_done: int = 0
    written: Future[None] | None = None
    """The shard that is being written."""
    memory: list[dict[str, Tensor]] = field(default_factory=list)

    def run(self, missing: Sequence[int]) -> None:
        """Make this process's part of the missing shards, in order."""
        plan = self.plan
        self.n_done = plan.n_tokens - sum(len(plan.shard_tokens(shard)) for shard in missing)
        missing = missing[self.ranks.part]
        n_rows, device = max((len(plan.shard_rows(shard)) for shard in missing), default=0), self.model.embed.W_E.device
        self.memory = [allocated(plan, n_rows, device) for _ in missing[:2]]
        self.progress(self.n_done, plan.n_tokens)
        with ThreadPoolExecutor(1, "store") as writer:
            try:
                for number, shard in enumerate(missing):
                    tensors = self._filled(shard, self.memory[number % 2])
                    self._wait()
                    self.written = writer.submit(self._write, shard, tensors)
            finally:
                self._wait()

    def _filled(self, shard: int, memory: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the model over a shard's windows; return its tensors, in this memory."""
        device, rows, tokens = self.model.embed.W_E.device, self.plan.shard_rows(shard), self.plan.shard_tokens(shard)
        kept = {name: x[: len(rows)] for name, x in memory.items()}
        with torch.inference_mode():
            for windows in self.plan.batches(shard):
                start = self.plan.rows_before(windows.start) - rows.start
                record_batch(self.model, read_windows(self.stream, windows, device), self.plan, kept, start)
                if self.written is not None and self.written.done():
                    self._wait()  # a disk that is full is not found out a shard later
                self.n_done = min(self.n_done + self.ranks.n * windows.n_windows * windows.n_pos, self.plan.n_tokens)
                self.progress(self.n_done, self.plan.n_tokens)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return {**kept, TOKENS: torch.from_numpy(self.stream.read(tokens.start, tokens.stop))}

    def _write(self, shard: int, tensors: dict[str, Tensor]) -> None:
        """Bring a shard onto the disk, and then into the manifest."""
        if self.plan.dtype == torch.float16:
            _check_finite(tensors)
        path = self.manifest.folder / shard_name(shard)
        try:
            with atomic_path(path) as temporary:
                save_tensors(tensors, temporary)
                record = ShardRecord(temporary.stat().st_size, file_sha256(temporary))
            self.manifest.shards[shard] = record
            self.manifest.write()
        except OSError as error:
            n_whole = self.plan.n_shards - len(self.manifest.missing())
            error.filename = str(path)  # and not a name that is gone
            error.add_note(f"{n_whole} of {self.plan.n_shards} shards are whole in {path.parent}, to be gone on with")
            raise

    def _wait(self) -> None:
        """Wait for the writer, and raise what stopped it."""
        written, self.written = self.written, None
        if written is not None:
            written.result()


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, x in tensors.items():
        if name != TOKENS and not x.isfinite().all():
            raise ValueError(
                f"{name} has values beyond float16's 65,504: store it as bfloat16 or float32, or leave out the first position"
            )


def _check_room(plan: StorePlan, missing: Sequence[int], folder: Path, ranks: Ranks) -> None:
    """Raise ValueError, before anything is written, for shards that do not fit the free memory, or the disk."""
    sizes = [len(plan.shard_rows(shard)) * plan.row_bytes for shard in missing]
    n_held = min(2 * ranks.rank.n_local, len(missing))
    free, needed = free_memory_gib(torch.device("cpu")), n_held * max(sizes, default=0) / 2**30
    if free is not None and needed > free:
        raise ValueError(f"{n_held} shards are {needed:.2g} GiB of memory and {free:.2g} are free: give a smaller shard_gib")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if sum(sizes) > (on_disk := disk_usage(there).free):
        raise ValueError(
            f"{format_bytes(sum(sizes))} are to be written and {format_bytes(on_disk)} are free in {folder}: "
            "give fewer names, a smaller max_tokens or a narrower dtype, or free some space"
        )


@contextmanager
def _begun(manifest: Manifest) -> Iterator[None]:
    """Begin a store, or go on with one, and keep other jobs from writing it; the lock ends with the process, however it ends."""
    folder = manifest.folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, "writes the store in"):
        clear_unfinished(folder)
        manifest.take_in()
        yield
    (folder / LOCK).unlink(missing_ok=True)


def _say_nothing(n_done: int, n_total: int) -> None:
    """Report to nobody."""
