"""Where documents come from: files of this machine, or a folder of a hub by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from os.path import commonpath
from pathlib import Path

from cutaway.assets.hub_folder import HUB_DOCUMENTS, HubListing, RemoteFile
from cutaway.data.documents import DocumentFile, DocumentSource
from cutaway.data.text import LINES, PARQUET, TEXT_SUFFIXES, matching_files, visible_files
from cutaway.runtime import file_sha256

__all__ = ["open_documents"]


def open_documents(source: str | Path, *, revision: str | None = None) -> DocumentSource:
    """Return the documents of a file, of every file that a glob matches, of a folder and those below it, or of a hub by name.

    `.parquet` and `.jsonl` have a column or field `text`; of what else there is a file is a document. Of a folder all parquet files and
    JSON lines are taken, or where there are none all texts. Of a hub no more is fetched than is read, at the commit
    `revision`, or at the one that its `main` is now. Raises ValueError where there are none, AssetError where the hub does not answer.
    """
    if str(source) in HUB_DOCUMENTS:
        return _of_hub(str(source), revision)
    path = Path(source)
    if path.is_dir():
        paths, base = _files_below(path), path
        if not paths:
            raise ValueError(f"the folder {path} holds no parquet, JSON lines or text file")
    else:
        paths = matching_files(source)
        if not paths:
            names = ", ".join(HUB_DOCUMENTS)
            raise ValueError(f"there is no file, folder or glob match {str(source)!r}; documents with a name are {names}")
        base = Path(commonpath([each.parent for each in paths]))
    files = [_LocalFile(each, each.relative_to(base).as_posix(), each.stat().st_size) for each in paths]
    return DocumentSource(str(source), tuple(files))


def _files_below(folder: Path) -> list[Path]:
    """Return the files with a document a row of a folder, or where there are none its texts, in the order of their paths."""
    there = visible_files(folder)
    rows, texts = ([path for path in there if path.suffix.lower() in endings] for endings in (PARQUET | LINES, TEXT_SUFFIXES))
    if rows and texts:
        warnings.warn(f"{folder} holds texts too ({texts[0].name}), which are left out; a glob takes what it matches", stacklevel=2)
    return rows or texts


@dataclass(frozen=True)
class _LocalFile(DocumentFile):
    """A file of this machine, known by its sha256."""

    path: Path
    name: str
    n_bytes: int

    def open(self) -> BufferedReader:
        return self.path.open("rb")

    def identity(self) -> dict[str, str]:
        return {"sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self.path)

    def __str__(self) -> str:
        return str(self.path)


def _of_hub(name: str, revision: str | None) -> DocumentSource:
    listing = HUB_DOCUMENTS[name].list(suffix=".parquet", revision=revision)
    files = [_HubFile(listing, file, file.name, file.n_bytes) for file in listing.files]
    return DocumentSource(name, tuple(files), {"repo": listing.folder.repo, "revision": listing.commit})


@dataclass(frozen=True)
class _HubFile(DocumentFile):
    """A file of a hub's listing, known by the hash that the hub states; what is read of it is held to the commit alone."""

    listing: HubListing
    file: RemoteFile
    name: str
    n_bytes: int

    def open(self) -> BufferedReader:
        return self.listing.open(self.file)

    def identity(self) -> dict[str, str]:
        return {"etag": self.file.etag}

    def __str__(self) -> str:
        return f"{self.listing.folder}/{self.file.name}"
