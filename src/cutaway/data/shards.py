"""Token ids on disk, read through memory maps: llm.c's format written, and nanoGPT's and build-nanogpt's read too."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cutaway.runtime import atomic_path, atomic_write

__all__ = ["TokenArray", "HEADER_BYTES", "token_dtype", "write_shard", "write_shard_in_pieces", "read_shard", "read_shard_manifest"]

TokenArray = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids in the order of the text, 16 or 32 bits each, usually memory-mapped."""

_HEADER_LENGTH = 256  # int32 values: magic, version, number of tokens, and zeros
HEADER_BYTES = 4 * _HEADER_LENGTH
"""How long a shard is before its first token."""
_FORMATS: dict[int, tuple[int, np.dtype[Any]]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}  # llm.c: magic -> version, dtype


def write_shard(path: Path, tokens: npt.ArrayLike, *, d_vocab: int, manifest: dict[str, Any] | None = None) -> None:
    """Write ids as llm.c does, 16 bits each up to 65,536 ids and 32 above, with `manifest` beside them as JSON.

    Raises ValueError for ids that are not in the vocabulary.
    """
    write_shard_in_pieces(path, [tokens], d_vocab=d_vocab, manifest=manifest)


def write_shard_in_pieces(
    path: Path, pieces: Iterable[npt.ArrayLike], *, d_vocab: int, manifest: dict[str, Any] | None = None
) -> None:
    """Write as one shard the ids that come piece by piece, as `write_shard` does; one piece is in memory at a time."""
    magic = _magic(d_vocab)
    version, dtype = _FORMATS[magic]
    header, n_tokens = np.zeros(_HEADER_LENGTH, dtype="<i4"), 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        for piece in pieces:
            ids = np.asarray(piece)
            if ids.size and not 0 <= ids.min() <= ids.max() < d_vocab:
                raise ValueError(f"token ids run from {ids.min()} to {ids.max()}; expected 0 to {d_vocab - 1}")
            file.write(np.ascontiguousarray(ids, dtype=dtype).tobytes())
            n_tokens += ids.size
        header[:3] = magic, version, n_tokens
        file.seek(0)
        file.write(header.tobytes())
    atomic_write(_manifest_path(path), json.dumps({"n_tokens": n_tokens, "d_vocab": d_vocab, **(manifest or {})}, indent=2))


def token_dtype(d_vocab: int) -> np.dtype[Any]:
    """Return what a shard keeps the ids of a vocabulary in."""
    return _FORMATS[_magic(d_vocab)][1]


def _magic(d_vocab: int) -> int:
    return 20240520 if d_vocab <= 2**16 else 20240801


def read_shard(path: Path) -> TokenArray:
    """Map a shard of ids: llm.c's `.bin`, nanoGPT's bare 16-bit `.bin`, or build-nanogpt's `.npy`.

    Raises ValueError for a file that is none of these or is shorter than it says.
    """
    if path.suffix == ".npy":
        try:
            tokens: TokenArray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no whole list of token ids: {error}") from None
        if tokens.ndim != 1 or tokens.dtype.kind != "u":
            raise ValueError(f"{path} holds a {tokens.ndim}-dimensional array of {tokens.dtype}; expected a list of token ids")
        return tokens
    size = path.stat().st_size
    if size >= 12:  # a shard that was cut short within its header is not taken for bare ids
        magic, version, n_tokens = (int(value) for value in np.fromfile(path, dtype="<i4", count=3))
        if magic in _FORMATS:
            known_version, dtype = _FORMATS[magic]
            if version != known_version:
                raise ValueError(f"{path} is a token shard of version {version}; expected {known_version}")
            if size != HEADER_BYTES + n_tokens * dtype.itemsize:
                raise ValueError(f"{path} should hold {n_tokens} tokens and is {size} bytes long: it was cut short; make it again")
            return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(n_tokens,))
    if size == 0 or size % 2:
        raise ValueError(f"{path} is {size} bytes long, which is no list of 16-bit token ids")
    return np.memmap(path, dtype="<u2", mode="r")


def read_shard_manifest(path: Path) -> dict[str, Any]:
    """Return what is written beside a shard of ours: its tokenizer, its text; nothing of one that came without.

    Raises ValueError for a manifest that is no JSON object.
    """
    beside = _manifest_path(path)
    if not beside.is_file():
        return {}
    try:
        return {**json.loads(beside.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{beside} is no manifest of a token shard: {error}") from None


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
