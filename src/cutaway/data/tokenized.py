"""A corpus as token ids: encoded once, kept in the cache, split in two."""

from __future__ import annotations

import numpy as np

from cutaway import assets
from cutaway.data.shards import TokenArray, read_shard, write_shard
from cutaway.data.text import Corpus
from cutaway.tokenizers import Tokenizer, tokenizer_hash

__all__ = ["tokenize_corpus", "split_tokens"]


def tokenize_corpus(corpus: Corpus, tokenizer: Tokenizer) -> TokenArray:
    """Return the corpus's token ids, memory-mapped from the cache; text and tokenizer are known there by their hashes."""
    tokenizer_sha256 = tokenizer_hash(tokenizer)
    path = assets.cache_dir() / "tokens" / f"{corpus.sha256[:16]}-{tokenizer_sha256[:16]}.bin"
    if path.is_file():
        try:
            return read_shard(path)
        except ValueError:  # cut short by a full disk, say: made again below
            path.unlink()
    manifest = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "tokenizer": tokenizer.kind,
        "tokenizer_sha256": tokenizer_sha256,
    }
    write_shard(path, np.asarray(tokenizer.encode(corpus.text)), d_vocab=tokenizer.d_vocab, manifest=manifest)
    return read_shard(path)


def split_tokens(tokens: TokenArray, *, validation_fraction: float = 0.1) -> tuple[TokenArray, TokenArray]:
    """Return the first part for training and the last for validation; raises ValueError for a fraction outside [0, 1)."""
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected at least 0 and less than 1")
    n_train = int(len(tokens) * (1 - validation_fraction))
    return tokens[:n_train], tokens[n_train:]
