"""Text from a file, a folder, a glob, or a corpus that has a name."""

from __future__ import annotations

import codecs
import glob
import hashlib
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path

from cutaway import assets

__all__ = [
    "CORPORA",
    "TEXT_SUFFIXES",
    "PARQUET",
    "LINES",
    "Corpus",
    "read_corpus",
    "stream_corpus",
    "matching_files",
    "visible_files",
    "decode_pieces",
]

CORPORA = ("tinyshakespeare", "shakespeare", "stdlib")
"""The corpora that are fetched or made by name."""

_PIECE_BYTES = 2**16

TEXT_SUFFIXES = {
    ".txt",
    ".md",
    ".rst",
    ".tex",
    ".py",
    ".c",
    ".h",
    ".cpp",
    ".js",
    ".ts",
    ".html",
    ".xml",
    ".csv",
    ".json",
}
"""The endings of files that are read as text where a folder is given."""
PARQUET, LINES = {".parquet"}, {".jsonl", ".ndjson"}
"""The endings of files with a document a row."""
_SHARD = re.compile(r"(train|validation)-\d{6}\.bin")


@dataclass(frozen=True)
class Corpus:
    """A text to train on: what it is called, its characters, and the sha256 of their UTF-8 bytes."""

    name: str
    text: str
    sha256: str

    def is_known_as(self, name: str) -> bool:
        """Return whether this is the corpus of a name, also where it was read from a file."""
        return self.name == name or self.sha256 in {file.sha256 for file in assets.CATALOGUE[name].files}


def read_corpus(source: str | Path) -> Corpus:
    """Read a file, every text file below a folder, every file a glob matches, or a corpus by name.

    Files are joined by a newline in the order of their paths. Raises ValueError for what is missing, empty or not UTF-8 text, and
    AssetError when a named corpus cannot be fetched.
    """
    text = "".join(stream_corpus(source))
    return Corpus(str(source), text, hashlib.sha256(text.encode()).hexdigest())


def stream_corpus(source: str | Path) -> Iterator[str]:
    """Yield the text that `read_corpus` reads in pieces of 64 kB or less; raises as that does, when it gets there."""
    holds_text = False
    for number, file in enumerate(_files(source)):
        for piece in _pieces(file) if number == 0 else chain("\n", _pieces(file)):
            holds_text = holds_text or bool(piece.strip())
            yield piece
    if not holds_text:
        raise ValueError(f"{source} holds no text: give a file with something to learn from")


def _files(source: str | Path) -> list[Path]:
    """Return the files of a text in their order; raises ValueError where there are none."""
    path = Path(source)
    if not str(source):
        raise ValueError(f"the name of the text is empty; give a file, a folder, a glob, or one of {', '.join(CORPORA)}")
    if str(source) in CORPORA:
        files = list(_fetch(str(source)).values())
    elif path.is_dir():
        files = _files_below(path)
    else:
        files = matching_files(source)
        if not files:
            names = ", ".join(CORPORA)
            raise ValueError(f"there is no file, folder or glob match {str(source)!r}; corpora with a name are {names}")
        if rows := [file for file in files if file.suffix.lower() in PARQUET | LINES]:
            kind = "parquet" if rows[0].suffix.lower() in PARQUET else "JSON lines"
            raise ValueError(f"{rows[0]} is {kind}, and no text: {_made_documents(source)}")
    return files


def _files_below(folder: Path) -> list[Path]:
    """Return the texts of a folder and those below it; raises ValueError where there are none, or token shards."""
    there = visible_files(folder)
    if shards := [file for file in there if _SHARD.fullmatch(file.name)]:
        raise ValueError(f"{folder} holds token shards ({shards[0].name}), and no text to read")
    files, rows = ([file for file in there if file.suffix.lower() in endings] for endings in (TEXT_SUFFIXES, PARQUET | LINES))
    if not files and rows:
        raise ValueError(f"the folder {folder} holds documents ({rows[0].name}), and no text: {_made_documents(folder)}")
    if not files:
        raise ValueError(f"the folder {folder} holds no text file ({' '.join(sorted(TEXT_SUFFIXES))})")
    if rows:
        warnings.warn(f"{folder} holds documents too ({rows[0].name}), which are left out: {_made_documents(folder)}", stacklevel=2)
    return files


def _made_documents(source: str | Path) -> str:
    return f"`cutaway download --documents {shlex.quote(str(source))} --out shards` makes token shards of them"


def visible_files(folder: Path) -> list[Path]:
    """Return the files of a folder and those below it in the order of their paths, but for hidden ones."""
    found = (path for path in sorted(folder.rglob("*")) if not any(part[0] == "." for part in path.relative_to(folder).parts))
    return [path for path in found if path.is_file()]


def matching_files(source: str | Path) -> list[Path]:
    """Return a file, or those that a glob matches in the order of their paths."""
    found = [Path(source)] if Path(source).is_file() else sorted(map(Path, glob.glob(str(source), recursive=True)))  # noqa: PTH207
    return [file for file in found if file.is_file()]


def _fetch(name: str) -> dict[str, Path]:
    try:
        return assets.fetch(name)
    except assets.AssetError as error:
        others = " or ".join(other for other in CORPORA if other != name)
        raise assets.AssetError(f"{error}\n  another text will do: {others}, or a file of your own, by --data") from None


def _pieces(file: Path) -> Iterator[str]:
    """Yield the text of a file piece by piece."""
    with file.open("rb") as content:
        yield from decode_pieces(content, str(file))


def decode_pieces(content: BufferedReader, file: str) -> Iterator[str]:
    """Yield the text of an open file in pieces of 64 kB or less; raises ValueError, which names it, for what is not UTF-8 text."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    while chunk := content.read(_PIECE_BYTES):
        begin = content.tell() - len(chunk) - len(decoder.getstate()[0])  # half a character may be left of the last piece
        if begin <= 0 and b"\0" in chunk[:65_536]:
            raise ValueError(f"{file} is a binary file (it holds NUL bytes); expected UTF-8 text")
        yield _decoded(decoder, chunk, file, begin)
    yield _decoded(decoder, b"", file, content.tell() - len(decoder.getstate()[0]))


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, file: str, begin: int) -> str:
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        place, byte = begin + error.start, error.object[error.start]
        raise ValueError(f"{file} is not UTF-8 text (byte {place} is {byte:#04x}); convert it first") from None
