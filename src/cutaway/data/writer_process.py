"""The process beside a run that makes the shards it is still to learn from; a line of JSON on its standard input says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cutaway.assets import AssetError
from cutaway.data.document_shards import DocumentShards
from cutaway.data.obtaining import obtain_shards
from cutaway.runtime import FolderBusyError, environment_of_one
from cutaway.tokenizers import load_tokenizer

__all__ = ["WriterProcess", "running_writer"]

_PAUSES_S = (5, 15, 30)
"""How long it waits before it asks a hub again that gave some shards and then no more; readers are patient for twice that."""
_ASK_S = 1.0


class WriterProcess:
    """The process, seen from the one that started it."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._process, self._said = process, said

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def failure(self) -> Exception | None:
        """Return the exception that it ended with, if it did."""
        if self.is_running or self._process.returncode == 0:
            return None
        self._said.seek(0)
        try:
            told = json.loads(self._said.read())
        except ValueError:
            return RuntimeError(f"the process that makes shards ended with {self._process.returncode}")
        return OSError(*told["os"]) if "os" in told else RuntimeError(told["said"])


@contextmanager
def running_writer(
    source: str, folder: Path, tokenizer: str, *, n_tokens: int | None, cap_bytes: int | None
) -> Iterator[WriterProcess]:
    """Have a process do what `obtain_shards` does, out of the way of this one's Ctrl-C, until it is done or this one ends, however."""
    wanted = {"source": source, "folder": str(folder), "tokenizer": tokenizer, "n_tokens": n_tokens, "cap_bytes": cap_bytes}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],  # nothing that lies in the working folder is imported
            env=environment_of_one(),
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(wanted).encode() + b"\n")
        process.stdin.flush()
        try:
            yield WriterProcess(process, said)
        finally:
            process.terminate()
            process.communicate()


def _main() -> None:
    wanted = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        _obtain(**wanted)
    except Exception as error:
        print(json.dumps(_told(error)))
        sys.exit(1)


def _end_with_starter() -> None:
    """End when the one that started this process does: the other end of its standard input is closed then."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _obtain(source: str, folder: str, tokenizer: str, *, n_tokens: int | None, cap_bytes: int | None) -> None:
    """Make the shards; wait while another process makes some there, and ask a hub again that has given some."""
    pauses = iter(_PAUSES_S)
    while True:
        try:
            obtain_shards(source, folder, load_tokenizer(tokenizer), n_tokens=n_tokens, cap_bytes=cap_bytes)
        except FolderBusyError:
            time.sleep(_ASK_S)
        except AssetError:
            pause = next(pauses, None)
            if pause is None or not (DocumentShards.are_in(folder) and DocumentShards.open(folder).pairs):
                raise
            time.sleep(pause)
        else:
            return


def _told(error: Exception) -> dict[str, Any]:
    """Return an exception as JSON values."""
    if isinstance(error, OSError) and error.errno is not None:
        return {"os": [error.errno, error.strerror, error.filename and str(error.filename)]}
    return {"said": str(error)}


if __name__ == "__main__":
    _main()
