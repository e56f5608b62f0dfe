"""Token shards of documents while a run learns from them: those that are missing are made by a process beside it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cutaway.assets import HUB_DOCUMENTS
from cutaway.data import DocumentShards, ShardsError, kept_in
from cutaway.data.document_writing import is_being_written
from cutaway.data.shard_loader import wait_for_pair
from cutaway.training.config import TrainConfig

__all__ = ["arriving_shards", "shards_folder"]


_ALL_TOKENS = "1T"
"""More than any of the named documents have."""


def shards_folder(config: TrainConfig) -> Path | None:
    """Return the folder of the shards that a run learns from, there or not, and None for a run that learns from a text."""
    if config.data in HUB_DOCUMENTS:
        name = config.tokenizer if config.tokenizer in ("gpt2", "cl100k") else Path(config.tokenizer).stem
        return kept_in(config.data, name)
    return Path(config.data) if config.data and DocumentShards.are_in(config.data) else None


@contextmanager
def arriving_shards(config: TrainConfig) -> Iterator[DocumentShards | None]:
    """Give the shards that a run learns from as soon as the first is there, and have the others made meanwhile; None for a text.

    The process that makes them is ended with the run, and goes on where it stopped with the next. Raises ShardsError where the first
    does not come, with what that process said.
    """
    folder = shards_folder(config)
    if folder is None or config.data not in HUB_DOCUMENTS or _are_all_there(folder, config):
        yield None if folder is None else DocumentShards.open(folder)
        return
    if config.tokenizer not in ("gpt2", "cl100k") and not Path(config.tokenizer).is_file():
        raise ValueError(f"tokenizer is {config.tokenizer!r}; {config.data} is encoded by gpt2, cl100k, or a tokenizer.json")
    most = ["--tokens", _ALL_TOKENS] if config.cap_bytes is None else ["--cap", str(config.cap_bytes)]
    command = ["download", config.data, "--tokenizer", config.tokenizer, *most, "--out", str(folder)]
    with tempfile.TemporaryFile() as said, _running(command, said) as process:
        try:
            yield wait_for_pair(folder, 0, is_coming=lambda: process.poll() is None or is_being_written(folder))
        except ShardsError as error:
            raise ShardsError(_last_line(said) or str(error)) from None


def _are_all_there(folder: Path, config: TrainConfig) -> bool:
    limits = {"n_tokens": None, "cap_bytes": config.cap_bytes}
    return DocumentShards.are_in(folder) and DocumentShards.open(folder).has_all_of(limits)


@contextmanager
def _running(command: list[str], said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of cutaway's beside this process, out of the way of its Ctrl-C, until the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cutaway", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _last_line(said: IO[bytes]) -> str:
    """Return the sentence with which a command of cutaway's ended."""
    said.seek(0)
    lines = said.read().decode(errors="replace").split("cutaway: ")
    return " ".join(lines[-1].split()) if len(lines) > 1 else ""
