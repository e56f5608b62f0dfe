"""Documents are made into shards by processes of their own: killed anywhere they end the same, and memory is flat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from many_processes import told_by
from tiny_training import hashes
from web_documents import make_texts, write_parquet

HERE = Path(__file__).parent


@pytest.mark.parametrize("n_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["local", "hub"])
def test_killed_anywhere_the_shards_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, n_kills: int
) -> None:
    for number in range(3):
        write_parquet(tmp_path / "source" / f"{number}.parquet", make_texts(1500, seed=number))
    n_pairs = told_by(HERE / "write_and_kill.py", tmp_path, kind, n_kills, timeout_s=300)
    with capsys.disabled():
        print(f"\n{n_kills} kills of the making of shards of {kind} files; whole pairs then: {', '.join(map(str, n_pairs))}")
    assert len(n_pairs) == n_kills
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


_MEASURED = """
import re, sys
from pathlib import Path
from cutaway.data import open_documents, write_document_shards
from web_documents import small_tokenizer
shards = write_document_shards(open_documents(sys.argv[1]), sys.argv[2], small_tokenizer(), shard_tokens=200_000)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], shards.n_tokens())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the most memory a process had is read from /proc")
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_memory_is_flat_as_the_source_grows_ten_times(tmp_path: Path, kind: str) -> None:
    peaks = []
    for n_texts in (6_000, 60_000):
        texts = make_texts(n_texts, n_words=400)
        path = tmp_path / f"{n_texts}.{kind}"
        if kind == "parquet":
            write_parquet(path, texts, row_group_size=n_texts)  # one row group
        else:
            path.write_text("\n".join(json.dumps({"text": text}) if kind == "jsonl" else text for text in texts))
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, path, tmp_path / str(n_texts)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            check=True,
        )
        peak, n_tokens = map(int, done.stdout.split())
        peaks.append(peak)
    assert n_tokens > 20_000_000  # 40 MB of ids, 70 of text
    assert peaks[1] < peaks[0] + 30_000, peaks  # kB
