"""Programs started as several processes that are told what torchrun would tell them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def surroundings(**more: str) -> dict[str, str]:
    """Return the environment of a process that is to know the package and what the tests share."""
    return os.environ | {"PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1", **more}


def told_by(script: Path, *arguments: object, timeout_s: float, **more: str) -> Any:
    """Run a program of the tests that says as JSON what it did, and return that; it must succeed and complain of nothing."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=surroundings(**more),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def start_ranks(n_ranks: int, *command: str | Path) -> list[subprocess.Popen[str]]:
    """Start a Python program as so many processes of one job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n_ranks), "LOCAL_WORLD_SIZE": str(n_ranks)}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=surroundings(**told, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_ranks)
    ]


def run_ranks(n_ranks: int, *command: str | Path, returncode: int = 0) -> list[tuple[str, str]]:
    """Run a Python program as so many processes of one job; return what each wrote on standard output and error."""
    processes = start_ranks(n_ranks, *command)
    ended = [process.communicate(timeout=240) for process in processes]
    assert {process.returncode for process in processes} == {returncode}, ended
    return [(out, err) for out, err in ended]
