"""Fetch or encode into a cache, be killed by SIGKILL again and again, go on each time: run by tests in a process of its own.

One process imports everything once and forks for every life. Each is killed after a random part of the time that all of the work takes;
where one is done before, it begins anew with an empty cache. What is there after a kill under its name is whole, or is said not to be.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests  # noqa: F401  (what the lives need is loaded once)

from cutaway import assets
from cutaway.assets import Asset, File
from cutaway.assets.sources import Url
from cutaway.data import tokenize_source
from many_processes import told_by
from web_documents import small_tokenizer


def live(work: Callable[[], object], cache: Path) -> int:
    """Do the work in a child, with this cache; return the child's process number."""
    child = os.fork()
    if child:
        return child
    os.environ["CUTAWAY_CACHE"] = str(cache)
    try:
        work()
    except BaseException as error:
        print(f"a life ended in {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(work: Callable[[], object], place: Path, n_kills: int, *, sha256: str | None) -> None:
    started = time.perf_counter()
    os.waitpid(live(work, place / "whole"), 0)
    whole_s = time.perf_counter() - started
    draw, found, folder = random.Random(n_kills), list[int](), place / "killed"
    while len(found) < n_kills:
        child = live(work, folder)
        time.sleep(draw.uniform(0, whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            shutil.rmtree(folder)
            continue
        found.append(n_bytes(folder))
        for file in folder.rglob("text.txt"):
            assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256, "a part lies under the name of the whole"
    os.waitpid(live(work, folder), 0)
    print(json.dumps(found))


def kill_repeatedly(*arguments: object) -> list[int]:
    """Run this file with arguments; return how many bytes were there at each kill."""
    found: list[int] = told_by(Path(__file__), *arguments, timeout_s=300)
    return found


if __name__ == "__main__":
    kind, place, n_kills, source = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if kind == "fetch":
        size, sha256 = int(sys.argv[5]), sys.argv[6]
        file = File("text.txt", (Url(source),), n_bytes=size, sha256=sha256)
        assets.CATALOGUE["thing"] = Asset("thing", "corpus", about="a thing", licence="none", files=(file,))
        main(lambda: assets.fetch("thing"), place, n_kills, sha256=sha256)
    else:
        tokenizer = small_tokenizer()
        main(lambda: tokenize_source(source, tokenizer), place, n_kills, sha256=None)
