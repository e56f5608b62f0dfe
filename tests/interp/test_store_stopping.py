"""A store that is stopped: by errors, by a kill, by a disk that fills, by arguments that are not its own."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cutaway import runtime
from cutaway.data import write_shard
from cutaway.interp.store import collect, collecting, open_store
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer
from stored_rows import IDS, NAMES, SMALL_SHARDS
from tiny_training import hashes, write_text

OPTIONS = {"ctx": 10, "batch_size": 1, "shard_gib": SMALL_SHARDS}  # of 117 tokens 12 windows, 4 shards


class Stop(Exception):
    """What stops a store here."""


@pytest.fixture
def whole(tiny_model, tmp_path):
    """The files of a store that was never stopped."""
    return hashes(collect(tiny_model, IDS, NAMES, tmp_path / "whole", **OPTIONS).folder)


def stop_at(n_tokens):
    def progress(n_done, n_total):
        assert n_total == len(IDS)
        if n_done >= n_tokens:
            raise Stop

    return progress


def test_stopped_anywhere_and_gone_on_with_it_is_the_same(tiny_model, whole, tmp_path):
    folder = tmp_path / "stopped"
    for n_tokens in (10, 40, 70, 117):
        with pytest.raises(Stop):
            collect(tiny_model, IDS, NAMES, folder, progress=stop_at(n_tokens), **OPTIONS)
        with pytest.raises(ValueError, match=r"of 4 shards whole .*collect again with the same arguments"):
            open_store(folder)
    done = []
    collect(tiny_model, IDS, NAMES, folder, progress=lambda n_done, n_total: done.append(n_done), **OPTIONS)
    assert done[0] == 90  # the shards that were whole are not made again
    assert done[-1] == 117
    assert hashes(folder) == whole
    collect(tiny_model, IDS, NAMES, folder, progress=stop_at(0), **OPTIONS)  # there is nothing to do, and nothing is said


def test_a_damaged_shard_is_found_and_made_anew(tiny_model, whole, tmp_path):
    folder = tmp_path / "whole"
    shard = folder / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged .*remove it, and collect again"):
        open_store(folder).verify()
    shard.write_bytes(content[:-1])  # cut short: seen at once
    with pytest.raises(ValueError, match=r"3 of 4 shards whole \(shard-00002.safetensors is missing or cut short\)"):
        open_store(folder)
    collect(tiny_model, IDS, NAMES, folder, **OPTIONS)
    assert hashes(folder) == whole
    content[8:10] = b"[["
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged, as its header cannot be read"):
        open_store(folder)["blocks.0.mlp.post"][:]
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is missing"):
        open_store(folder)
    collect(tiny_model, IDS, NAMES, folder, **OPTIONS)
    assert hashes(folder) == whole


@pytest.mark.parametrize("stopped_by", ["the library", "fsync"])
def test_a_disk_that_fills_leaves_what_is_whole(tiny_model, whole, tmp_path, monkeypatch, stopped_by):
    folder, full = tmp_path / "full", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        if stopped_by == "the library":
            save = collecting.save_tensors

            def save_some(tensors, path):
                if "00002" in path.name:
                    path.write_bytes(b"half a shard")
                    raise full
                save(tensors, path)

            patch.setattr(collecting, "save_tensors", save_some)
        else:
            sync = runtime._fsync

            def sync_some(path):
                if "00002" in path.name:
                    raise full
                sync(path)

            patch.setattr(runtime, "_fsync", sync_some)
        with pytest.raises(OSError, match="No space left") as caught:
            collect(tiny_model, IDS, NAMES, folder, **OPTIONS)
    assert caught.value.filename == str(folder / "shard-00002.safetensors")
    assert caught.value.__notes__ == [f"2 of 4 shards are whole in {folder}, to be gone on with"]
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".tmp")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    collect(tiny_model, IDS, NAMES, folder, **OPTIONS)
    assert hashes(folder) == whole


def test_what_would_not_fit_is_not_begun(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "disk_usage", lambda path: type("Usage", (), {"free": 40_000}))
    with pytest.raises(ValueError, match=r"^89.9 kB are to be written and 40.0 kB are free in .*narrower dtype"):
        collect(tiny_model, IDS, NAMES, tmp_path / "kept", **OPTIONS)
    monkeypatch.undo()
    monkeypatch.setattr(collecting, "free_memory_gib", lambda device: 1e-5)
    with pytest.raises(ValueError, match="give a smaller shard_gib"):
        collect(tiny_model, IDS, NAMES, tmp_path / "kept", **OPTIONS)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"names": "blocks.1.resid_post"},
            "blocks.0.attn.z, blocks.0.mlp.post, blocks.1.resid_mid in float64, not blocks.1.resid_post in float64",
        ),
        ({"dtype": torch.bfloat16}, "blocks.1.resid_mid in float64, not blocks.0.attn.z, .* in bfloat16"),
        ({"ctx": 12}, "windows of 10 tokens, not windows of 12 tokens"),
        ({"batch_size": 2}, "1 windows a run, not 2 windows a run"),
        ({"shard_gib": 1.0}, "layout windows_per_shard 3, not"),
        ({"max_tokens": 50}, "117 tokens, not 50 tokens"),
        ({"skip_first": True}, "the first position kept, not the first position left out"),
        ({"data": IDS.flip(0)}, r"the text .* \(sha256 [0-9a-f]{12}\), not the text .* \(sha256 [0-9a-f]{12}\)"),
    ],
)
def test_a_store_of_other_arguments_is_refused(tiny_model, tmp_path, whole, changes, said):
    given = {"data": IDS, "names": NAMES, **OPTIONS, **changes}
    with pytest.raises(ValueError, match=rf"was begun with .*{said}.*: give the same to go on, or a folder of its own"):
        collect(tiny_model, given.pop("data"), given.pop("names"), tmp_path / "whole", **given)
    assert hashes(tmp_path / "whole") == whole


def test_a_store_of_another_model_is_refused(tiny_model, tmp_path, whole):
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in.bias[3] += 1e-9
    with pytest.raises(ValueError, match=r"was begun with the model .*\(sha256 [0-9a-f]{12}\), not the model"):
        collect(tiny_model, IDS, NAMES, tmp_path / "whole", **OPTIONS)
    with pytest.raises(ValueError, match="is of another model"):
        open_store(tmp_path / "whole").check_model(tiny_model)


def test_other_threads_are_refused_as_bits_would_differ(tiny_model, tmp_path, whole):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(n_threads + 1)
    try:
        with pytest.raises(ValueError, match=f"{n_threads} threads of torch .*, not {n_threads + 1} threads"):
            collect(tiny_model, IDS, NAMES, tmp_path / "whole", **OPTIONS)
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"names": "blocks.*.attn.pattern"},
            "'blocks.0.attn.pattern' holds a number for every query and key and so has no row a token",
        ),
        ({"names": "blocks.0.resid_pots"}, "no 'blocks.0.resid_pots'; the nearest names are blocks.0.resid_post"),
        ({"names": []}, "no activation is named"),
        ({"ctx": 13}, "ctx is at least 1 and at most 12"),
        ({"ctx": 0}, "ctx is at least 1"),
        ({"ctx": 1, "skip_first": True}, "skip_first leaves nothing"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 1, "skip_first": True}, "is one token, which skip_first leaves out"),
        ({"shard_gib": 1e-9}, "give a smaller batch_size, a larger shard_gib"),
        ({"dtype": torch.int8}, "the dtype is torch.int8; activations are stored in float64"),
        ({"data": "nowhere.txt"}, "there is no file, folder or glob match"),
        ({"data": "my texts/*.txt"}, "there is no file, folder or glob match"),
        ({"data": "my thesis.tex"}, "there is no file, folder or glob match"),
        ({"data": "some text"}, "a text needs a tokenizer"),
        ({"data": []}, "no text and no token shard"),
        ({"data": torch.tensor([3, 31])}, "token ids from 3 to 31; this model's are 0 to 30"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tiny_model, tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    given = {"data": IDS, "names": NAMES, "ctx": 10} | given
    with pytest.raises(ValueError, match=said) as caught:
        collect(tiny_model, given.pop("data"), given.pop("names"), "kept", **given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_ids_are_whole_numbers_in_rows(tiny_model, tmp_path, without_type_checks):
    for ids in (torch.rand(3, 4), torch.zeros(2, 3, 4).long()):
        with pytest.raises(ValueError, match=r"expected whole numbers, batch and pos"):
            collect(tiny_model, ids, "embed", tmp_path / "kept")


def test_shards_of_another_tokenizer_are_refused(tiny_model, tmp_path):
    lm = LanguageModel(tiny_model, CharTokenizer.fit("abc"))
    write_shard(tmp_path / "a.bin", [0, 1, 2], d_vocab=3, manifest={"tokenizer_sha256": "0" * 64})
    with pytest.raises(ValueError, match=r"a.bin was encoded by another tokenizer \(sha256 000000000000\)"):
        collect(lm, tmp_path / "a.bin", "embed", tmp_path / "kept")
    assert collect(tiny_model, tmp_path / "a.bin", "embed", tmp_path / "kept").n_tokens == 3  # ids are ids


def test_folders_that_are_no_store(tiny_model, tmp_path, whole):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    with pytest.raises(ValueError, match=r"mine holds other things \(thesis.tex\)"):
        collect(tiny_model, IDS, NAMES, tmp_path / "mine", **OPTIONS)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match=r"thesis.tex is a file"):
        collect(tiny_model, IDS, NAMES, tmp_path / "mine" / "thesis.tex", **OPTIONS)
    with pytest.raises(ValueError, match=r"mine holds no manifest.json"):
        open_store(tmp_path / "mine")
    manifest = tmp_path / "whole" / "manifest.json"
    good = manifest.read_text()
    for bad in ("{", "[]", json.dumps({"format": "else"}), good.replace('"n_ctx": 10', '"n_ctx": 11')):
        manifest.write_text(bad)
        with pytest.raises(ValueError, match=r"manifest.json describes no store of activations"):
            open_store(tmp_path / "whole")
    manifest.unlink()
    with pytest.raises(ValueError, match=r"holds other things \(shard-00000.safetensors\)"):  # whose are they?
        collect(tiny_model, IDS, NAMES, tmp_path / "whole", **OPTIONS)


def test_a_name_that_a_store_does_not_hold(tiny_model, tmp_path, whole):
    with pytest.raises(ValueError, match=r"holds no 'blocks.1.resid_post'; it holds blocks.0.attn.z, blocks.0.mlp.post"):
        open_store(tmp_path / "whole")["blocks.1.hook_resid_post"]


def test_values_that_float16_has_not_are_refused(tiny_model, tmp_path):
    with torch.no_grad():
        tiny_model.embed.W_E.mul_(1e6)
    with pytest.raises(ValueError, match=r"embed has values beyond float16's 65,504"):
        collect(tiny_model, IDS, "embed", tmp_path / "kept", ctx=10, dtype=torch.float16)
    assert not list((tmp_path / "kept").glob("*.safetensors"))


def test_what_a_kill_at_the_very_end_leaves_is_cleared(tiny_model, tmp_path, whole):
    (tmp_path / "whole" / ".lock").touch()
    (tmp_path / "whole" / ".manifest.json.123.tmp").touch()
    (tmp_path / "whole" / ".tmph719CH").touch()  # as safetensors names the file that it renames
    collect(tiny_model, IDS, NAMES, tmp_path / "whole", **OPTIONS)
    assert hashes(tmp_path / "whole") == whole


def test_only_one_process_writes_a_store(tiny_model, tmp_path):
    from filelock import FileLock

    folder = tmp_path / "kept"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(ValueError, match="another process writes the store"):
        collect(tiny_model, IDS, NAMES, folder, **OPTIONS)


COLLECT = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.interp.store import collect
from cutaway.tokenizers import CharTokenizer

torch.set_num_threads(1)
folder, data, names = sys.argv[1:4]
letters = CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz ,.\\n")
config = ModelConfig(d_vocab=500, n_ctx=64, n_layers=1, n_heads=4, d_model=256, d_mlp=512)
model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval()
print("ready", flush=True)
collect(LanguageModel(model, letters), data, names.split(), folder, ctx=64, batch_size=8, shard_gib=1.5 * 2**-10 * len(names.split()))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""Collects with a small model in a process of its own, about 3 MB a shard, and says the most memory it had in KiB."""


def begin(folder: Path, data: Path, names: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COLLECT, str(folder), str(data), names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def n_whole_in(folder: Path) -> int:
    return len(list(folder.glob("*.safetensors")))


def write_ids(path: Path, n: int) -> Path:
    write_shard(path, torch.randint(500, (n,), generator=torch.Generator().manual_seed(0)).numpy(), d_vocab=500)
    return path


@pytest.mark.slow
def test_killed_at_five_random_moments_it_is_byte_identical(tmp_path):
    data, names = write_ids(tmp_path / "ids.bin", 60_000), "blocks.0.resid_post blocks.0.mlp.post"
    process = begin(tmp_path / "whole", data, names)
    started = time.perf_counter()
    assert process.wait() == 0
    time_of_one_s = (time.perf_counter() - started) / n_whole_in(tmp_path / "whole")
    draw, n_whole = random.Random(), 0
    for _ in range(5):
        process = begin(tmp_path / "killed", data, names)
        while n_whole_in(tmp_path / "killed") == n_whole:  # each gets somewhere, however busy the machine is
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 2) * time_of_one_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        n_whole = n_whole_in(tmp_path / "killed")
    assert begin(tmp_path / "killed", data, names).wait() == 0
    found = hashes(tmp_path / "killed")
    assert len(found) > 20
    assert found == hashes(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the most memory a process had is read from /proc")
@pytest.mark.parametrize("kind", ["token shard", "text"])
def test_memory_is_flat_as_the_corpus_grows_ten_times(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    peaks = []
    for n_tokens in (20_000, 200_000):
        if kind == "text":
            data = write_text(tmp_path, n_words=n_tokens // 6, name=f"{n_tokens}.txt")
        else:
            data = write_ids(tmp_path / f"{n_tokens}.bin", n_tokens)
        process = begin(tmp_path / str(n_tokens), data, "blocks.0.resid_post")
        out, _ = process.communicate()
        peaks.append(int(out))
    assert open_store(tmp_path / "200000").gib > 0.17  # held in memory, 180 MB would be seen
    assert peaks[1] <= 1.05 * peaks[0]
