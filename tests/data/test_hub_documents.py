"""Documents of a hub, one on this machine: what is fetched, at which commit, and what is said when it stays away."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.assets import HUB_DOCUMENTS, AssetError, hub_folder
from cutaway.data import DocumentShards, document_writing, obtain_shards, open_documents, write_document_shards
from cutaway.data.document_shards import SIDES
from cutaway.data.documents import Place
from hub_server import Hub, running_hub
from tiny_training import hashes
from web_documents import make_texts, small_tokenizer, write_parquet

OLD, NEW = "a" * 40, "b" * 40
FOLDER = HUB_DOCUMENTS["fineweb-edu"]
TOKENIZER = small_tokenizer()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(2):
        write_parquet(tmp_path / "files" / f"{number:03d}_00000.parquet", make_texts(2000, seed=number), row_group_size=100)
    return tmp_path / "files"


def contents(files: Path) -> dict[str, bytes]:
    return {f"{FOLDER.path}/{path.name}": path.read_bytes() for path in files.iterdir()} | {"README.md": b"about"}


@pytest.fixture
def hub(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with running_hub(FOLDER.repo) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(_http.time, "sleep", lambda time_s: None)
        monkeypatch.setattr(hub_folder, "_BLOCK_BYTES", 20_000)
        monkeypatch.setattr(document_writing, "_AT_ONCE", 2000)
        hub.commit(OLD, contents(files))
        yield hub


def test_the_documents_are_those_of_the_files(hub: Hub, files: Path) -> None:
    source, local = open_documents("fineweb-edu"), open_documents(files)
    assert source.about == {"repo": "HuggingFaceFW/fineweb-edu", "revision": OLD}
    assert [file.name for file in source.files] == ["000_00000.parquet", "001_00000.parquet"]
    assert [file.n_bytes for file in source.files] == [file.n_bytes for file in local.files]
    # the hub calls a large file by its sha256, and so does a local source
    assert [file.identity()["etag"] for file in source.files] == [file.identity()["sha256"] for file in local.files]
    assert list(source.documents()) == list(local.documents())
    assert list(source.documents(Place(1, 1234))) == list(local.documents(Place(1, 1234)))


def test_no_more_is_fetched_than_is_read(hub: Hub, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "large.parquet", make_texts(20_000), row_group_size=1000)
    hub.commit(NEW, {f"{FOLDER.path}/{name}.parquet": file.read_bytes() for name in "ab"})
    shards = obtain_shards("fineweb-edu", tmp_path / "out", TOKENIZER, n_tokens=5000)
    assert shards.n_tokens() < 6000
    assert hub.n_sent < file.stat().st_size / 4  # a fiftieth of the texts of one file, its end, and what is read ahead
    assert not any("b.parquet" in path for path in hub.asked)


def test_the_commit_and_the_hashes_are_recorded_and_enforced(hub: Hub, tmp_path: Path, files: Path) -> None:
    obtain_shards("fineweb-edu", tmp_path / "out", TOKENIZER, n_tokens=5000)
    recorded = json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]["source"]
    assert (recorded["repo"], recorded["revision"]) == (FOLDER.repo, OLD)
    assert recorded["files"][0]["etag"] == hashes(files)["000_00000.parquet"]
    hub.commit(NEW, {path: content[::-1] for path, content in contents(files).items()})
    whole = obtain_shards("fineweb-edu", tmp_path / "out", TOKENIZER)
    expected = write_document_shards(open_documents(files), tmp_path / "local", TOKENIZER)
    for side in SIDES:
        tokens, same = (np.concatenate([each.read(side, pair) for pair in range(len(each.pairs))]) for each in (whole, expected))
        assert tokens.tolist() == same.tolist()
    del hub.commits[OLD]
    asked = len(hub.asked)
    assert obtain_shards("fineweb-edu", tmp_path / "out", TOKENIZER) == whole  # all is there: the hub is not asked
    assert len(hub.asked) == asked
    with pytest.raises(AssetError, match="the hub did not name the files"):
        open_documents("fineweb-edu", revision=OLD)


@pytest.mark.parametrize("breaks", [[1000], [0], [7, 0, 100, 0], [10] * 5])
def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, files: Path, breaks: list[int]) -> None:
    documents = open_documents("fineweb-edu").documents()
    expected = list(open_documents(files).documents())
    found = [next(documents) for _ in range(300)]
    hub.breaks_after += breaks
    assert found + list(documents) == expected
    assert not hub.breaks_after


def test_a_connection_that_stays_broken_is_one_sentence_and_nothing_is_lost(hub: Hub, tmp_path: Path, files: Path) -> None:
    def cut(n_done: int, n_total: int | None) -> None:
        if n_done > 30_000 and not hub.breaks_after:
            hub.breaks_after += [0] * 1000

    documents = open_documents("fineweb-edu")
    said = r"^hub .*/sample/10BT/00\d_00000.parquet could not be read on at byte [\d,]+ \(.*503.*\): what is whole stays"
    with pytest.raises(AssetError, match=said) as caught:
        write_document_shards(documents, tmp_path / "out", TOKENIZER, shard_tokens=20_000, progress=cut)
    assert "\n" not in str(caught.value)
    assert DocumentShards.open(tmp_path / "out").pairs
    hub.breaks_after.clear()
    write_document_shards(documents, tmp_path / "out", TOKENIZER, shard_tokens=20_000)
    write_document_shards(open_documents(files), tmp_path / "local", TOKENIZER, shard_tokens=20_000)
    for path in (tmp_path / "local").glob("*.bin"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_a_refusal_is_not_asked_again(hub: Hub) -> None:
    documents = open_documents("fineweb-edu")
    hub.commits[OLD] = {}
    asked = len(hub.asked)
    with pytest.raises(AssetError, match=r"could not be read on at byte [\d,]+ \(.*404"):
        next(documents.documents())
    assert len(hub.asked) - asked < 6


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")
    with pytest.raises(AssetError, match=r"^hub .*/sample/10BT: the hub did not name the files \(.*\)$") as caught:
        open_documents("fineweb-edu")
    assert "\n" not in str(caught.value)


def test_a_commit_without_parquet_files(hub: Hub) -> None:
    hub.commit(NEW, {f"{FOLDER.path}/data.csv": b"1"})
    with pytest.raises(AssetError, match=f"at commit {NEW} there is no file that ends with .parquet"):
        open_documents("fineweb-edu")


def test_a_file_of_the_hub_without_texts_is_named(hub: Hub) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"content": ["a"]}), buffer)
    hub.commit(NEW, {f"{FOLDER.path}/0.parquet": buffer.getvalue()})
    with pytest.raises(ValueError, match=r"hub .*/sample/10BT/0.parquet has no column 'text'; its columns are content"):
        next(open_documents("fineweb-edu").documents())
    hub.commit(NEW, {f"{FOLDER.path}/0.parquet": buffer.getvalue()[:-9]})
    with pytest.raises(ValueError, match=r"0.parquet is no whole parquet file"):
        next(open_documents("fineweb-edu").documents())
