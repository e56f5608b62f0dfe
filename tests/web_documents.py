"""Documents as FineWeb-Edu has them, made here, and a small tokenizer that can separate them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cutaway.tokenizers import END_OF_TEXT, BPETokenizer, BytePairTokenizer

WORDS = re.split(" ", "the school teaches naïve students 漢字 how rivers 🙂 carry\n\nstones to a sea of numbers, and why")


def make_texts(n_texts: int, *, seed: int = 0, n_words: int = 60) -> list[str]:
    """Return texts of different lengths; some are empty or blank, and one comes again and again."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, n_words))) + f" {number}." for number in range(n_texts)]
    for number in range(0, n_texts, 17):
        texts[number] = ["the same text", "", "\n ", f"says {END_OF_TEXT} in words"][number // 17 % 4]
    return texts


def write_parquet(path: Path, texts: Sequence[str | None], *, row_group_size: int = 37) -> Path:
    """Write a file with the columns of FineWeb-Edu."""
    n_rows = len(texts)
    columns = {
        "text": pa.array(texts, pa.string()),
        "id": [f"<urn:uuid:{number}>" for number in range(n_rows)],
        "dump": ["CC-MAIN-2024-10"] * n_rows,
        "url": ["https://example.org/"] * n_rows,
        "file_path": ["s3://somewhere"] * n_rows,
        "language": ["en"] * n_rows,
        "language_score": pa.array([0.9] * n_rows, pa.float64()),
        "token_count": pa.array([len(text or "") for text in texts], pa.int64()),
        "score": pa.array([3.2] * n_rows, pa.float64()),
        "int_score": pa.array([3] * n_rows, pa.int64()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def small_tokenizer(*, d_vocab: int = 300) -> BytePairTokenizer:
    """Return a byte-level tokenizer with <|endoftext|>."""
    return BytePairTokenizer.from_bpe(BPETokenizer.train(" ".join(WORDS) * 20, d_vocab=d_vocab, special_tokens=[END_OF_TEXT]))
