"""From text to batches of token ids."""

from cutaway.data.loader import Batch, Loader, validation_batches
from cutaway.data.shards import TokenArray, read_shard, read_shard_manifest, write_shard
from cutaway.data.text import CORPORA, Corpus, read_corpus
from cutaway.data.tokenized import split_tokens, tokenize_corpus

__all__ = [
    "CORPORA",
    "Corpus",
    "read_corpus",
    "tokenize_corpus",
    "split_tokens",
    "TokenArray",
    "write_shard",
    "read_shard",
    "read_shard_manifest",
    "Batch",
    "Loader",
    "validation_batches",
]
