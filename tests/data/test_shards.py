"""Token shards byte for byte as llm.c documents them, and those of nanoGPT and build-nanogpt as numpy writes them."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from cutaway.data import read_shard, write_shard

HEADER = 1024


@pytest.mark.parametrize(
    ("d_vocab", "magic", "version", "dtype"),
    # llm.c, dev/data/data_common.py: "gpt-2" is 20240520, 1, uint16; "llama-3" is 20240801, 7, uint32
    [(65, 20240520, 1, "<u2"), (65_536, 20240520, 1, "<u2"), (65_537, 20240801, 7, "<u4"), (100_277, 20240801, 7, "<u4")],
)
def test_a_shard_is_llm_cs(tmp_path: Path, d_vocab: int, magic: int, version: int, dtype: str) -> None:
    ids = [0, 1, d_vocab - 1, 7, 0]
    path = tmp_path / "deep" / "train.bin"
    write_shard(path, ids, d_vocab=d_vocab)
    content = path.read_bytes()
    assert content[:12] == struct.pack("<iii", magic, version, 5)
    assert content[12:HEADER] == bytes(HEADER - 12)
    assert content[HEADER:] == np.array(ids, dtype=dtype).tobytes()

    tokens = read_shard(path)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.dtype(dtype)
    assert tokens.tolist() == ids
    assert not tokens.flags.writeable


def test_the_manifest_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(9), d_vocab=65, manifest={"tokenizer": "char"})
    assert json.loads((tmp_path / "train.bin.json").read_text()) == {"n_tokens": 9, "d_vocab": 65, "tokenizer": "char"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.bin", "train.bin.json"]  # no temporary file stays


def test_no_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "none.bin", [], d_vocab=65)
    assert (tmp_path / "none.bin").stat().st_size == HEADER
    assert read_shard(tmp_path / "none.bin").tolist() == []


@pytest.mark.parametrize(("ids", "span"), [([0, 65], "0 to 65"), ([-1, 3], "-1 to 3"), ([70_000], "70000 to 70000")])
def test_ids_outside_the_vocabulary(tmp_path: Path, ids: list[int], span: str) -> None:
    with pytest.raises(ValueError, match=f"token ids run from {span}; expected 0 to 64"):
        write_shard(tmp_path / "train.bin", ids, d_vocab=65)
    assert list(tmp_path.iterdir()) == []


def test_nanogpts_bare_ids(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(50_257, size=3000)
    for n_tokens in (1, 511, 3000):  # shorter and longer than a header
        ids[:n_tokens].astype(np.uint16).tofile(tmp_path / "train.bin")
        tokens = read_shard(tmp_path / "train.bin")
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert tokens.tolist() == ids[:n_tokens].tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_build_nanogpts_npy(tmp_path: Path, dtype: type) -> None:
    ids = np.arange(1000, dtype=dtype)
    np.save(tmp_path / "train.npy", ids)
    tokens = read_shard(tmp_path / "train.npy")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == dtype
    assert np.array_equal(tokens, ids)


@pytest.mark.parametrize("d_vocab", [65, 100_277])
@pytest.mark.parametrize("size", [12, 600, HEADER, HEADER + 2, -1, -4])
def test_a_shard_that_was_cut_short(tmp_path: Path, d_vocab: int, size: int) -> None:
    """Wherever it was cut, in the header too: what is left is never taken for ids."""
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(65), d_vocab=d_vocab)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"train.bin should hold 65 tokens and is \d+ bytes long: it was cut short; make it again"):
        read_shard(path)


def test_a_shard_with_something_after_it(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(65), d_vocab=65)
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(ValueError, match="should hold 65 tokens"):
        read_shard(path)


def test_a_version_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(struct.pack("<iii", 20240520, 2, 0) + bytes(HEADER - 12))
    with pytest.raises(ValueError, match="token shard of version 2; expected 1"):
        read_shard(tmp_path / "train.bin")


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_what_is_no_list_of_ids(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"is {len(content)} bytes long, which is no list of 16-bit token ids"):
        read_shard(tmp_path / "train.bin")


def test_an_npy_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "train.npy"
    for array in (np.zeros((2, 3), np.uint16), np.zeros(3), np.zeros(3, np.int64)):
        np.save(path, array)
        with pytest.raises(ValueError, match="expected a list of token ids"):
            read_shard(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train\.npy"):
        read_shard(path)


@pytest.mark.parametrize("size", [0, 4, 40, -2])
def test_an_npy_that_was_cut_short(tmp_path: Path, size: int) -> None:
    path = tmp_path / "train.npy"
    np.save(path, np.arange(1000, dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"train\.npy"):
        read_shard(path)


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    for name in ("absent.bin", "absent.npy"):
        with pytest.raises(FileNotFoundError):
            read_shard(tmp_path / name)
