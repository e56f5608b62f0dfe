"""Documents one by one, from parquet, JSON lines and text of any size, each with its place, from which a stream goes on."""

from __future__ import annotations

import glob
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cutaway.data.text import TEXT_SUFFIXES, decode_pieces
from cutaway.runtime import file_sha256
from cutaway.values import said_of_json, shortened

if TYPE_CHECKING:
    import pyarrow.parquet

__all__ = ["Place", "Document", "DocumentFile", "LocalFile", "DocumentSource", "open_documents"]

_PARQUET, _LINES = {".parquet"}, {".jsonl", ".ndjson"}
_COLUMN = "text"
_ROWS_AT_ONCE = 256
_BUFFER_BYTES = 2**20
"""What is read of a column at once: a row group may be larger than the memory."""
_LONGEST_PART = 2**20
"""Characters of a text file that make one document at most."""


class Place(NamedTuple):
    """Where a document is in its source: the number of its file, and of its row there."""

    file: int
    row: int


_BEGINNING = Place(0, 0)


@dataclass(frozen=True)
class Document:
    """A text that stands for itself, and where it is."""

    text: str
    place: Place


class DocumentFile(ABC):
    """One file of a source: a name, a size in bytes, its content, and what tells whether that is still the same."""

    name: str
    n_bytes: int

    @abstractmethod
    def open(self) -> BinaryIO:
        """Open the content, which can be sought in."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return what fixes the content, as JSON values; reading the file for it may take a while."""


@dataclass(frozen=True)
class LocalFile(DocumentFile):
    """A file of this machine, known by its sha256."""

    path: Path
    name: str
    n_bytes: int

    def open(self) -> BinaryIO:
        """Open the file."""
        return self.path.open("rb")

    def identity(self) -> dict[str, str]:
        """Return the sha256 of the whole file."""
        return {"sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class DocumentSource:
    """Files in an order, what they are called together, and what else fixes them, such as a hub's commit."""

    name: str
    files: tuple[DocumentFile, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    def documents(self, start: Place = _BEGINNING) -> Iterator[Document]:
        """Yield the documents from a place on, without those that hold no text.

        Little is in memory at once: of parquet a piece of the one column that is needed. A row of parquet or a line of JSON lines is a
        document, and so is a text file; one of more than a million characters is cut at the ends of lines into several.
        Raises ValueError, which names the file, for one that is cut short, has no texts or is not UTF-8.
        """
        for number in range(start.file, len(self.files)):
            first = start.row if number == start.file else 0
            for row, text in enumerate(_texts(self.files[number], first), start=first):
                if text and not text.isspace():
                    yield Document(text, Place(number, row))


def open_documents(source: str | Path) -> DocumentSource:
    """Return the documents of a file, of every file that a glob matches, or of a folder and those below it.

    `.parquet` and `.jsonl` have a column or field `text`; what else there is is read as text. Of a folder only the parquet files are
    taken where there are any, or else the JSON lines, or else the texts. Raises ValueError where there are none.
    """
    path = Path(source)
    if path.is_dir():
        paths, base = _files_below(path), path
        if not paths:
            raise ValueError(f"the folder {path} holds no parquet, JSON lines or text file")
    else:
        paths = [path] if path.is_file() else sorted(map(Path, glob.glob(str(source), recursive=True)))  # noqa: PTH207
        paths = [each for each in paths if each.is_file()]
        if not paths:
            raise ValueError(f"there is no file, folder or glob match {str(source)!r} to read documents from")
        base = Path(commonpath([each.parent for each in paths]))
    files = [LocalFile(each, each.relative_to(base).as_posix(), each.stat().st_size) for each in paths]
    return DocumentSource(str(source), tuple(files))


def _files_below(folder: Path) -> list[Path]:
    """Return the files of the first kind of which a folder has some, in the order of their paths; hidden ones do not count."""
    visible = [path for path in sorted(folder.rglob("*")) if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    for suffixes in (_PARQUET, _LINES, TEXT_SUFFIXES):
        if found := [path for path in visible if path.suffix.lower() in suffixes and path.is_file()]:
            return found
    return []


def _texts(file: DocumentFile, first: int) -> Iterator[str | None]:
    """Yield the texts of a file from row `first` on, None where a row has none."""
    suffix = Path(file.name).suffix.lower()
    if suffix in _PARQUET:
        yield from _texts_of_parquet(file, first)
        return
    with file.open() as content:
        texts = _texts_of_lines(content, str(file)) if suffix in _LINES else _parts(content, str(file))
        yield from islice(texts, first, None)


def _texts_of_parquet(file: DocumentFile, first: int) -> Iterator[str | None]:
    """Yield the column `text`, from the row group that row `first` is in."""
    try:
        with file.open() as content, _opened(content) as opened:
            _check_column(opened.schema_arrow, file)
            metadata = opened.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            group = 0
            while group < len(sizes) and first >= sizes[group]:
                first -= sizes[group]
                group += 1
            left = list(range(group, len(sizes)))
            for batch in opened.iter_batches(_ROWS_AT_ONCE, row_groups=left, columns=[_COLUMN], use_threads=False):
                yield from batch.column(0)[min(first, len(batch)) :].to_pylist()
                first = max(0, first - len(batch))
    except UnicodeDecodeError:
        raise ValueError(f"{file} has texts that are not UTF-8; write it again with texts of strings") from None
    except (ValueError, OSError) as error:
        if not (type(error) is OSError and error.errno is None) and not type(error).__module__.startswith("pyarrow"):
            raise  # it is not of the library's: those of damaged data are OSErrors without a number
        raise ValueError(f"{file} is no whole parquet file ({_first_sentence(error)}): get it again") from None


def _opened(content: BinaryIO) -> pyarrow.parquet.ParquetFile:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError("parquet files are read with pyarrow, which is not installed: pip install 'cutaway[data]'") from None
    return pyarrow.parquet.ParquetFile(content, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _check_column(schema: pyarrow.Schema, file: DocumentFile) -> None:
    """Raise ValueError for a file without a column of texts."""
    from pyarrow import types

    if schema.names.count(_COLUMN) != 1:
        columns = ", ".join(schema.names) or "none"
        raise ValueError(f"{file} has no column {_COLUMN!r}; its columns are {columns}: rename the one that holds the documents")
    kind = schema.field(_COLUMN).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise ValueError(f"the column {_COLUMN!r} of {file} holds {kind}; expected strings")


def _texts_of_lines(content: BinaryIO, name: str) -> Iterator[str | None]:
    """Yield the field `text` of each line's object, None for an empty line."""
    for number, line in enumerate(content, start=1):
        if not line.strip():
            yield None
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {name} cannot be read: {said_of_json(error)}") from None
        if not isinstance(row, dict) or _COLUMN not in row:
            has = f"its fields are {', '.join(row)}" if isinstance(row, dict) else f"it holds {shortened(row)}"
            raise ValueError(f"line {number} of {name} has no field {_COLUMN!r}; {has}: expected an object with one")
        if not isinstance(row[_COLUMN], str | None):
            said = f"the field {_COLUMN!r} in line {number} of {name} is {shortened(row[_COLUMN])}; expected a text"
            raise ValueError(said)  # noqa: TRY004 (data)
        yield row[_COLUMN]


def _parts(content: BinaryIO, name: str) -> Iterator[str]:
    """Yield a text whole, or where it is long in parts that end with a line, or where a line is longer still, anywhere."""
    held = ""
    for piece in decode_pieces(content, name):
        held += piece
        while len(held) > _LONGEST_PART:
            cut = held.rfind("\n", 0, _LONGEST_PART) + 1 or _LONGEST_PART
            yield held[:cut]
            held = held[cut:]
    yield held


def _first_sentence(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said.partition(". ")[0].rstrip(".")
