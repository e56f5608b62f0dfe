"""Batches of shards: every window once an epoch, the same however often it stops, however many share it, and as shards come."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.data import DocumentShards, ShardLoader, ShardsError, open_documents, shard_loader, write_document_shards
from cutaway.data.document_shards import ShardPair, ShardRecord
from cutaway.data.document_writing import Progress, is_being_written
from cutaway.data.documents import Place
from web_documents import make_texts, small_tokenizer, write_parquet

N_CTX, BATCH = 16, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("source") / "a.parquet", make_texts(120))


def make(source: Path, folder: Path, progress: Progress | None = None, n_tokens: int | None = None) -> DocumentShards:
    options = {"shard_tokens": 1000, "progress": progress, "n_tokens": n_tokens}
    return write_document_shards(open_documents(source), folder, small_tokenizer(), **options)


@pytest.fixture
def shards(source: Path, tmp_path: Path) -> DocumentShards:
    return make(source, tmp_path / "shards")


def load(shards: DocumentShards, *, seed: int = 0, **options: Any) -> ShardLoader:
    return ShardLoader(shards, batch_size=BATCH, n_ctx=N_CTX, seed=seed, **options)


def rows_of(loader: ShardLoader, n_batches: int) -> list[list[int]]:
    """Each row with its last target."""
    rows = []
    for _ in range(n_batches):
        inputs, targets = loader.next_batch()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        rows += torch.cat([inputs, targets[:, -1:]], dim=1).tolist()
    return rows


def all_windows(shards: DocumentShards) -> list[list[list[int]]]:
    """The windows of each shard, by reshaping."""
    found = []
    for number in range(len(shards.pairs)):
        tokens = shards.read("train", number).astype(np.int64)
        n_windows = (len(tokens) - 1) // N_CTX
        inputs = tokens[: n_windows * N_CTX].reshape(n_windows, N_CTX)
        found.append(np.concatenate([inputs, tokens[N_CTX : n_windows * N_CTX + 1 : N_CTX, None]], axis=1).tolist())
    return found


def test_an_epoch_has_every_window_once_shard_by_shard(shards: DocumentShards) -> None:
    by_shard = all_windows(shards)
    n_windows = sum(map(len, by_shard))
    assert len(by_shard) > 3
    rows = rows_of(load(shards), 3 * n_windows // BATCH)
    orders = []
    for epoch in range(2):
        start = epoch * n_windows
        for windows in by_shard:
            drawn = rows[start : start + len(windows)]
            assert sorted(drawn) == sorted(windows)
            orders.append([windows.index(row) for row in drawn])
            start += len(windows)
    assert all(order != sorted(order) for order in orders)  # as likely as 1 in 60!
    assert orders[0] != orders[len(by_shard)]  # another epoch, another order
    assert rows_of(load(shards, seed=1), 3) != rows[: 3 * BATCH]


def test_it_goes_on_as_if_never_stopped(shards: DocumentShards) -> None:
    whole = load(shards)
    rows = rows_of(whole, 90)
    first = load(shards)
    rows_of(first, 40)
    second = load(shards, seed=7)
    second.load_state_dict(first.state_dict())
    assert rows_of(second, 50) == rows[40 * BATCH :]
    assert second.state_dict() == whole.state_dict() == {"seed": 0, "n_drawn": 90}


@pytest.mark.parametrize("n_ranks", [1, 2, 5])
def test_the_order_is_the_same_however_many_share_a_batch(shards: DocumentShards, n_ranks: int) -> None:
    loader = ShardLoader(shards, batch_size=10, n_ctx=N_CTX, seed=0)
    per_rank = 10 // n_ranks
    parts = [
        ShardLoader(shards, batch_size=10, n_ctx=N_CTX, seed=0, rows=slice(rank * per_rank, (rank + 1) * per_rank))
        for rank in range(n_ranks)
    ]
    for _ in range(60):
        assert torch.equal(torch.cat([part.next_batch()[0] for part in parts]), loader.next_batch()[0])


def test_batches_are_the_same_while_later_shards_are_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: DocumentShards
) -> None:
    """A writer that is let go on by one pair at a time, each only when the loader has found that the next is not there."""
    expected = rows_of(load(shards), 120)
    monkeypatch.setattr(shard_loader, "_ASK_S", 0.01)
    may_go_on, folder, n_waits = threading.Semaphore(0), tmp_path / "growing", 0
    n_pairs = 0

    def progress(n_done: int, n_total: int | None) -> None:
        nonlocal n_pairs
        if len(DocumentShards.open(folder).pairs) > n_pairs:
            n_pairs += 1
            may_go_on.acquire()

    writer = threading.Thread(target=make, args=(source, folder, progress))
    writer.start()
    loader = load(shard_loader.wait_for_pair(folder, is_coming=lambda: True))
    rows: list[list[int]] = []
    while len(rows) < len(expected):
        if loader.has(1):
            rows += rows_of(loader, 1)
        elif DocumentShards.open(folder).pairs[-1] == loader._shards.pairs[-1]:
            n_waits += 1
            may_go_on.release()
            time.sleep(0.05)
    assert rows == expected
    may_go_on.release(100)
    writer.join()
    assert n_waits >= len(shards.pairs) - 1


def test_the_next_is_waited_for_while_a_writer_still_starts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: DocumentShards
) -> None:
    monkeypatch.setattr(shard_loader, "_ASK_S", 0.01)
    folder = tmp_path / "growing"
    first = make(source, folder, n_tokens=1200)
    everything = lambda shards: shards.within(None)  # noqa: E731
    loader = load(everything(first), view=everything)
    n_batches = sum((pair.train.n_tokens - 1) // N_CTX for pair in first.pairs) // BATCH + 1
    assert loader.has(n_batches - 1)
    assert not loader.has(n_batches)
    threading.Timer(0.5, make, args=(source, folder)).start()
    assert len(rows_of(loader, n_batches)) == n_batches * BATCH


def test_a_writer_that_died_is_noticed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shards"

    class Stop(Exception):
        pass

    def stop(n_done: int, n_total: int | None) -> None:
        if n_done:
            assert is_being_written(folder)
        if n_done > 2500:
            raise Stop

    with pytest.raises(Stop):
        make(source, folder, stop)
    assert not is_being_written(folder)
    loader = load(DocumentShards.open(folder))
    monkeypatch.setattr(shard_loader, "_PATIENCE_S", 0.3)
    with pytest.raises(ShardsError, match=r"shard 2 of .* is not there and nobody writes it: make the shards again") as caught:
        rows_of(loader, 1000)
    assert "\n" not in str(caught.value)
    whole = make(source, folder)
    at = loader.state_dict()["n_drawn"]
    assert rows_of(loader, 5) == rows_of(load(whole), at + 5)[-5 * BATCH :]  # the same loader goes on too


def test_shards_without_one_window(tmp_path: Path) -> None:
    pair = ShardPair(ShardRecord(7, 1, ""), ShardRecord(0, 0, ""), Place(0, 1))
    shards = DocumentShards(tmp_path, {}, {}, (pair,), "exhausted")
    with pytest.raises(ValueError, match="have 7 tokens to train on at most and a window takes 17"):
        load(shards).next_batch()
