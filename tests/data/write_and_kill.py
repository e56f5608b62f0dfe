"""Make shards, be killed by SIGKILL again and again, go on: run by test_document_shards_in_processes.py in a process of its own.

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

from huggingface_hub import constants

from cutaway.assets import HUB_DOCUMENTS, hub_folder
from cutaway.data import DocumentShards, open_documents, write_document_shards
from hub_server import running_hub
from web_documents import small_tokenizer

TOKENIZER = small_tokenizer()


def live(folder: Path, source: str) -> int:
    """Begin, or go on, in a child; return the child's process number."""
    child = os.fork()
    if child:
        return child
    try:
        write_document_shards(open_documents(source), folder, TOKENIZER, shard_tokens=5000, n_workers=2)
    except BaseException as error:
        print(f"a life ended in {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def n_pairs(folder: Path) -> int:
    return len(DocumentShards.open(folder).pairs) if (folder / "manifest.json").exists() else 0


def main(place: Path, source: str, n_kills: int) -> None:
    started = time.perf_counter()
    os.waitpid(live(place / "whole", source), 0)
    n_whole = n_pairs(place / "whole")
    pair_s = (time.perf_counter() - started) / n_whole
    draw, found = random.Random(n_kills), list[int]()
    folder = place / "killed"
    for number in range(n_kills):
        before = n_pairs(folder)
        until = before + draw.randint(0, (n_whole - 1 - before) // (n_kills - number + 1))
        child = live(folder, source)
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
    os.waitpid(live(folder, source), 0)
    print(json.dumps(found))


if __name__ == "__main__":
    place, kind = Path(sys.argv[1]), sys.argv[2]
    if kind == "local":
        main(place, str(place / "source"), int(sys.argv[3]))
    else:
        folder = HUB_DOCUMENTS["fineweb-edu"]
        with running_hub(folder.repo) as hub:
            constants.ENDPOINT, hub_folder._BLOCK_BYTES = hub.address, 20_000
            constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
            hub.commit("a" * 40, {f"{folder.path}/{path.name}": path.read_bytes() for path in (place / "source").iterdir()})
            main(place, "fineweb-edu", int(sys.argv[3]))
