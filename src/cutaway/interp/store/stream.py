"""The tokens of a corpus as one stream that is read piece by piece, wherever they lie."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from torch import Tensor

from cutaway.data import CORPORA, TokenArray, read_shard, read_shard_manifest, stream_corpus, tokenize_source
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import Tokenizer, tokenizer_hash

__all__ = ["Data", "TokenStream", "open_stream"]

Data = str | Path | Sequence[str | Path] | Int[Tensor, "batch pos"] | Int[Tensor, " pos"]
"""A text; files, folders, globs or corpora by name; token shards; or ids as a tensor, each row a window or all of them one stream."""

_SHARD_SUFFIXES = (".bin", ".npy")
_AT_ONCE = 2**20  # ids
_PATH = re.compile(r"\*|\.\w+$")


@dataclass(frozen=True)
class TokenStream:
    """Ids one after the other; nothing of them is held between reads but what was given in memory."""

    source: str
    """What they are called."""
    parts: tuple[Callable[[], npt.NDArray[np.integer]], ...]
    """Each opens a stretch of ids."""
    sizes: tuple[int, ...]
    n_tokens: int
    """How many ids of these are read."""
    n_row: int | None = None
    """The length of a row, where the ids came in rows."""

    def read(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the ids from one place up to another."""
        found, begin = [], 0
        for opened, size in zip(self.parts, self.sizes, strict=True):
            low, high = max(start - begin, 0), min(stop - begin, size)
            if low < high:
                found.append(np.array(opened()[low:high], dtype=np.int32))
            begin += size
        return np.concatenate(found) if len(found) != 1 else found[0]

    def pieces(self) -> Iterator[npt.NDArray[np.int32]]:
        """Yield all ids, about a million at a time."""
        for start in range(0, self.n_tokens, _AT_ONCE):
            yield self.read(start, min(start + _AT_ONCE, self.n_tokens))

    def check(self, d_vocab: int) -> None:
        """Raise ValueError for an id that a model of so many has no embedding of."""
        for ids in self.pieces():
            low, high = int(ids.min()), int(ids.max())
            if not 0 <= low <= high < d_vocab:
                raise ValueError(f"{self.source} has token ids from {low} to {high}; this model's are 0 to {d_vocab - 1}")

    def sha256(self) -> str:
        """Return the sha256 of the ids, 32 bits each."""
        digest = hashlib.sha256()
        for ids in self.pieces():
            digest.update(ids.astype("<i4").data)
        return digest.hexdigest()


def open_stream(lm: LanguageModel | Transformer, data: Data, *, max_tokens: int | None = None) -> TokenStream:
    """Return the tokens of a corpus, the first `max_tokens` of them; files are encoded piece by piece, once, into the cache.

    Texts are read as `cutaway.data` reads them. A string is a text where it holds blanks or line breaks and neither is nor looks like
    a path. Raises ValueError for what is missing or empty, for shards of another tokenizer, and for text without a tokenizer.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; expected at least 1")
    if isinstance(data, Tensor):
        return _of_tensor(data, max_tokens)
    each = [data] if isinstance(data, str | Path) else list(data)
    opened = [part for source in each for part in _parts(lm, source)]
    if not opened:
        raise ValueError("there is no text and no token shard in the list of data: give at least one")
    sizes = tuple(len(part()) for part in opened)
    source = ", ".join(_called(source) for source in each[:3]) + ", ..." * (len(each) > 3)
    return _checked(TokenStream(source, tuple(opened), sizes, min(sum(sizes), max_tokens or sum(sizes))))


def _checked(stream: TokenStream) -> TokenStream:
    if not stream.n_tokens:
        raise ValueError(f"{stream.source} has no tokens: give a longer text")
    return stream


def _of_tensor(ids: Tensor, max_tokens: int | None) -> TokenStream:
    if ids.ndim not in (1, 2) or ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"the ids are {ids.dtype} of shape {list(ids.shape)}; expected whole numbers, batch and pos")
    flat, n_row = ids.cpu().flatten().numpy(), ids.shape[1] if ids.ndim == 2 else None
    n_tokens = min(len(flat), max_tokens or len(flat))
    return _checked(TokenStream("token ids", (lambda: flat,), (len(flat),), n_tokens, n_row))


def _parts(lm: LanguageModel | Transformer, source: str | Path) -> list[Callable[[], TokenArray]]:
    """Return what opens the tokens of one source."""
    shards = _shards(source)
    if shards:
        for path in shards:
            _check_tokenizer(lm, path)
        return [lambda path=path: read_shard(path) for path in shards]  # type: ignore[misc]
    if isinstance(source, str) and _is_text(source):
        ids = np.asarray(_tokenizer(lm).encode(source), dtype=np.uint32)
        return [lambda: ids]
    next(stream_corpus(source), None)  # what is not there is said before what the model lacks
    path = _cached(tokenize_source(source, _tokenizer(lm)))
    return [lambda: read_shard(path)]


def _tokenizer(lm: LanguageModel | Transformer) -> Tokenizer:
    if not isinstance(lm, LanguageModel):
        raise ValueError(  # noqa: TRY004  (what a user gave, said in a sentence)
            "a text needs a tokenizer: give the LanguageModel, as cutaway.load returns it, or token ids"
        )
    return lm.tokenizer


def _cached(ids: TokenArray) -> Path:
    assert isinstance(ids, np.memmap)
    return Path(str(ids.filename))


def _shards(source: str | Path) -> list[Path]:
    """Return the token shards that a path, a folder or a glob stands for; none where it is text."""
    if isinstance(source, str) and (source in CORPORA or _is_long(source)):
        return []
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in _SHARD_SUFFIXES)
    found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(source), recursive=True)))  # noqa: PTH207
    return found if found and all(file.suffix in _SHARD_SUFFIXES for file in found) else []


def _is_long(source: str) -> bool:
    """Whether a string cannot be a path: systems refuse to look such a one up."""
    return "\n" in source or len(source) > 255


def _is_text(source: str) -> bool:
    if source in CORPORA or not any(sign.isspace() for sign in source):
        return False
    if not _is_long(source) and _PATH.search(source):  # one that is not there is a mistake, and no text
        return False
    return _is_long(source) or not (Path(source).exists() or glob.glob(source, recursive=True))  # noqa: PTH207


def _called(source: str | Path) -> str:
    return "a text" if isinstance(source, str) and _is_text(source) else str(source)


def _check_tokenizer(lm: LanguageModel | Transformer, path: Path) -> None:
    made_by = read_shard_manifest(path).get("tokenizer_sha256")
    if made_by is not None and isinstance(lm, LanguageModel) and made_by != tokenizer_hash(lm.tokenizer):
        raise ValueError(
            f"{path} was encoded by another tokenizer (sha256 {made_by[:12]}) than this model's ({tokenizer_hash(lm.tokenizer)[:12]}): "
            "encode the text anew, or take the model that it was made for"
        )
