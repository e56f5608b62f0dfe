"""The folder where assets stay: one folder an asset, with a manifest that says what each file is and where it came from."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cutaway.assets.asset import Asset, File
from cutaway.assets.sources import Provenance, SourceError
from cutaway.runtime import atomic_write, clear_unfinished, file_sha256, settle

__all__ = ["cache_dir", "Record", "Shelf"]


def cache_dir() -> Path:
    """Return the cache folder: $CUTAWAY_CACHE, or `cutaway` in the platform's folder for caches. It need not exist."""
    if chosen := os.environ.get("CUTAWAY_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cutaway"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutaway"


@dataclass(frozen=True)
class Record:
    """What the manifest keeps of a file that was verified in full: size in bytes, sha256, time of change, origin."""

    size: int
    sha256: str
    mtime_ns: int
    provenance: Provenance

    @classmethod
    def of(cls, path: Path, provenance: Provenance) -> Record:
        """Read the whole file and record it."""
        before = path.stat()
        return cls(before.st_size, file_sha256(path), before.st_mtime_ns, provenance)


class Shelf:
    """One asset's folder in the cache: its files, its manifest and its lock."""

    def __init__(self, asset: Asset) -> None:
        self.asset = asset
        self.folder = cache_dir() / "assets" / asset.name
        self._manifest = self.folder / "manifest.json"

    def path(self, file: File) -> Path:
        """Return where the file is or would be."""
        return self.folder / file.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the asset against other processes: what two ask for at once is fetched once."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty folder that is gone afterwards; the caller holds the lock, so what was left by a crash is nobody's."""
        clear_unfinished(self.folder)
        work = self.folder / ".work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def records(self) -> dict[str, Record]:
        """Return the manifest's records by file name; a manifest that cannot be read is one that says nothing."""
        try:
            files = json.loads(self._manifest.read_text(encoding="utf-8"))["files"]
            return {name: Record(**{**fields, "provenance": Provenance(**fields["provenance"])}) for name, fields in files.items()}
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def record(self, file: File, record: Record) -> None:
        """Write a file's record into the manifest, beside those of the others."""
        files = {name: asdict(kept) for name, kept in (self.records() | {file.name: record}).items()}
        atomic_write(self._manifest, json.dumps({"asset": self.asset.name, "files": files}, indent=2) + "\n")

    def distrust(self, file: File) -> None:
        """Forget when a file was last seen whole, so that it is read in full before it is used again."""
        if (record := self.records().get(file.name)) is not None:
            self.record(file, replace(record, mtime_ns=0))

    def revisions(self) -> dict[str, str]:
        """Return the hub commits that this asset's files came from, by repository."""
        origins = [record.provenance for record in self.records().values()]
        return {origin.repo: origin.revision for origin in origins if origin.repo and origin.revision}

    def expected_sha256(self, file: File) -> str | None:
        """Return the hash that a file must have: the catalogue's, or that of the hub commit recorded."""
        record = self.records().get(file.name)
        return file.sha256 or (record.sha256 if record and record.provenance.revision else None)

    def holds(self, file: File, *, in_full: bool = False) -> bool:
        """Whether the file is here and whole: by size and time when they are as recorded, otherwise by its sha256.

        A file put here by hand counts when the catalogue knows its hash. A derived file that another version of its
        converter made does not.
        """
        path, record = self.path(file), self.records().get(file.name)
        if record and file.sha256 is None and record.provenance.converter not in _converters(file):
            record = None
        expected = file.sha256 or (record.sha256 if record else None)
        if expected is None or not path.is_file():
            return False
        now = path.stat()
        if record and not in_full and record.sha256 == expected and record.mtime_ns == now.st_mtime_ns:
            return record.size == now.st_size
        size = file.n_bytes or (record.size if record else None)
        return size in (None, now.st_size) and file_sha256(path) == expected

    def adopt(self, file: File) -> bool:
        """Record a whole file that is here, but was copied here by hand or has another time; False when none is whole."""
        if not self.holds(file):
            return False
        path, record = self.path(file), self.records().get(file.name)
        if record is None or record.mtime_ns != path.stat().st_mtime_ns:
            self.record(file, Record.of(path, record.provenance if record else Provenance(source="found in the cache")))
        return True

    def put(self, file: File, part: Path, provenance: Provenance) -> None:
        """Take a written file in: verify it in full, rename it into place, record it. Raises SourceError when refused."""
        found = Record.of(part, provenance)
        expected = self.expected_sha256(file)
        if expected is not None and found.sha256 != expected:
            part.unlink()
            raise SourceError(f"its sha256 is {found.sha256}, not {expected}")
        settle(part, self.path(file))  # killed before, the part is there to be gone on with
        self.record(file, replace(found, mtime_ns=self.path(file).stat().st_mtime_ns))


def _converters(file: File) -> set[str | None]:
    return {source.converter for source in file.sources}
