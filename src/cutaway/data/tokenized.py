"""A corpus as token ids: encoded once, kept in the cache, split in two."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock

from cutaway import assets
from cutaway.data.shards import TokenArray, read_shard, read_shard_manifest, write_shard_in_pieces
from cutaway.data.text import Corpus, stream_corpus
from cutaway.runtime import remove_path
from cutaway.tokenizers import Tokenizer, tokenizer_hash

__all__ = ["tokenize_corpus", "tokenize_source", "split_tokens"]


_AT_ONCE = 2**16
"""Characters that are encoded together; their ids, as Python has them, take 36 bytes each."""
_AROUND = 64
"""Characters on either side that say whether a text may be cut: words are much shorter."""
_MAY_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")
"""After a line, or else before a blank."""


def tokenize_corpus(corpus: Corpus, tokenizer: Tokenizer) -> TokenArray:
    """Return the corpus's token ids, memory-mapped from the cache; text and tokenizer are known there by their hashes."""
    return _cached(corpus.name, corpus.sha256, tokenizer, map(tokenizer.encode, [corpus.text]))


def tokenize_source(source: str | Path, tokenizer: Tokenizer) -> TokenArray:
    """Return the ids that `tokenize_corpus` gives for the text that `read_corpus` reads, without ever holding all of that text.

    It is read twice where it is not in the cache: once for its hash, then to be encoded piece by piece, cut only where the tokenizer
    gives the same ids on either side as across.
    """
    digest = hashlib.sha256()
    for piece in stream_corpus(source):
        digest.update(piece.encode())
    encoded = map(tokenizer.encode, _stretches(stream_corpus(source), tokenizer))
    return _cached(str(source), digest.hexdigest(), tokenizer, encoded)


def _cached(name: str, sha256: str, tokenizer: Tokenizer, pieces: Iterable[list[int]]) -> TokenArray:
    """Return the ids that lie in the cache for a text; where it does not, one process encodes it and others wait for that."""
    tokenizer_sha256 = tokenizer_hash(tokenizer)
    path = assets.cache_dir() / "tokens" / f"{sha256[:16]}-{tokenizer_sha256[:16]}.bin"
    if (whole := _whole(path)) is not None:
        return whole
    manifest = {
        "corpus": name,
        "corpus_sha256": sha256,
        "tokenizer": tokenizer.kind,
        "tokenizer_sha256": tokenizer_sha256,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.stem}.lock")):
        if (whole := _whole(path)) is not None:
            return whole
        for rest in path.parent.glob(f".{path.name}*.tmp"):  # left by a process that was killed
            remove_path(rest)
        write_shard_in_pieces(path, pieces, d_vocab=tokenizer.d_vocab, manifest=manifest)
    return read_shard(path)


def _whole(path: Path) -> TokenArray | None:
    """Return a shard with the manifest that is written after it; None for one that was cut short, by a full disk, say."""
    try:
        return read_shard(path) if path.is_file() and read_shard_manifest(path) else None
    except ValueError:
        return None


def _stretches(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a text in stretches that are encoded alone as within the whole."""
    held = ""
    for piece in pieces:
        held += piece
        if len(held) >= _AT_ONCE and (cut := _last_cut(held, tokenizer)):
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _last_cut(text: str, tokenizer: Tokenizer) -> int | None:
    """Return where a text may be cut, as near its end as possible; None where it may not in its second half."""
    half = len(text) // 2
    for match in reversed(list(_MAY_CUT.finditer(text, half, len(text) - 1))):
        left, right = text[max(0, match.start() - _AROUND) : match.start()], text[match.start() : match.start() + _AROUND]
        if tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right):
            return match.start()
    return None


def split_tokens(tokens: TokenArray, *, validation_fraction: float = 0.1) -> tuple[TokenArray, TokenArray]:
    """Return the first part for training and the last for validation; raises ValueError for a fraction outside [0, 1)."""
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected at least 0 and less than 1")
    n_train = int(len(tokens) * (1 - validation_fraction))
    return tokens[:n_train], tokens[n_train:]
