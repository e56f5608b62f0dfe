"""Make shards, be killed by SIGKILL again and again, go on each time: run by test_document_shards.py in a process of its own.

One process imports everything once and forks for every life. A life is let go on for a random number of pairs. Then half of the
kills come after a random part of the time that a pair takes, the other half as soon as a file is seen being written.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from cutaway.data import DocumentShards, open_documents, write_document_shards
from web_documents import small_tokenizer

TOKENIZER = small_tokenizer()


def live(folder: Path) -> int:
    """Begin, or go on, in a child; return the child's process number."""
    child = os.fork()
    if child:
        return child
    try:
        source = open_documents(folder.parent / "source")
        write_document_shards(source, folder, TOKENIZER, shard_tokens=5000, n_workers=2)
    except BaseException as error:
        print(f"a life ended in {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def n_pairs(folder: Path) -> int:
    return len(DocumentShards.open(folder).pairs) if (folder / "manifest.json").exists() else 0


def main(place: Path, n_kills: int) -> None:
    started = time.perf_counter()
    os.waitpid(live(place / "whole"), 0)
    n_whole = n_pairs(place / "whole")
    pair_s = (time.perf_counter() - started) / n_whole
    draw, found = random.Random(n_kills), list[int]()
    folder = place / "killed"
    for number in range(n_kills):
        before = n_pairs(folder)
        until = before + draw.randint(0, (n_whole - 1 - before) // (n_kills - number + 1))
        child = live(folder)
        while n_pairs(folder) < until:
            time.sleep(0.0005)
        if number % 2:
            while not any(folder.glob(f".*.{child}.tmp")):
                time.sleep(0.0001)
        else:
            time.sleep(draw.uniform(0, pair_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            found.append(n_pairs(folder))
    os.waitpid(live(folder), 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
