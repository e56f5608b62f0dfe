"""Documents one by one, from parquet, JSON lines and text of any size, each with its place, from which a stream goes on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cutaway.data.text import LINES, PARQUET, decode_pieces
from cutaway.values import said_of_json, shortened

if TYPE_CHECKING:
    import pyarrow.parquet

__all__ = ["Place", "Document", "DocumentFile", "DocumentSource"]

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
    """One file of a source: a name, a size in bytes, its content, and what tells whether that is still the same.

    As a text it says where it is, for a sentence.
    """

    name: str
    n_bytes: int

    @abstractmethod
    def open(self) -> BufferedReader:
        """Open the content, which can be sought in."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return what fixes the content, as JSON values; reading the file for it may take a while."""


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


def _texts(file: DocumentFile, first: int) -> Iterator[str | None]:
    """Yield the texts of a file from row `first` on, None where a row has none."""
    suffix = Path(file.name).suffix.lower()
    if suffix in PARQUET:
        yield from _texts_of_parquet(file, first)
        return
    with file.open() as content:
        texts = _texts_of_lines(content, str(file)) if suffix in LINES else _parts(content, str(file))
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


def _opened(content: BufferedReader) -> pyarrow.parquet.ParquetFile:
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


def _texts_of_lines(content: BufferedReader, name: str) -> Iterator[str | None]:
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


def _parts(content: BufferedReader, name: str) -> Iterator[str]:
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
