"""Assets by name: fetched from the first source that gives what the catalogue promises, found again without a network."""

from __future__ import annotations

import difflib
import errno
from dataclasses import dataclass
from pathlib import Path

from cutaway.assets.asset import Asset, File
from cutaway.assets.cache import Shelf
from cutaway.assets.catalogue import CATALOGUE
from cutaway.assets.sources import Report, Request, SourceError

__all__ = ["AssetError", "AssetStatus", "fetch", "obtain", "locate", "verify", "status"]


class AssetError(RuntimeError):
    """An asset could not be had: one line for each source tried, or one sentence about this machine's disk."""


@dataclass(frozen=True)
class AssetStatus:
    """One row of the table of assets: what it is, its size in bytes where known, and where it is or would come from.

    `memory` is the bytes of a model's weights in float32, None for what is no model.
    """

    name: str
    kind: str
    about: str
    licence: str
    size: int | None
    is_present: bool
    where: str
    memory: int | None


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
        raise AssetError(_disk_failure(error, shelf)) from error
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
        raise AssetError(_disk_failure(error, shelf)) from error
    return problems


def status() -> list[AssetStatus]:
    """Return a row for every asset of the catalogue, without a network."""
    return [_status(asset) for asset in CATALOGUE.values()]


def _status(asset: Asset) -> AssetStatus:
    found = locate(asset.name)
    return AssetStatus(
        name=asset.name,
        kind=asset.kind,
        about=asset.about,
        licence=asset.licence,
        size=asset.size if found is None else sum(path.stat().st_size for path in found.values()),
        is_present=found is not None,
        where=str(Shelf(asset).folder if found else asset.sources[0]),
        memory=asset.memory,
    )


def _held(shelf: Shelf) -> dict[str, Path] | None:
    files = shelf.asset.files
    return {file.name: shelf.path(file) for file in files} if all(map(shelf.holds, files)) else None


def _asset(name: str) -> Asset:
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, CATALOGUE, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{name!r} is no asset; {meant}there are {', '.join(CATALOGUE)}")


def _obtain(shelf: Shelf, file: File, work: Path, report: Report) -> None:
    """Try a file's sources in order; the caller holds the shelf's lock."""
    part = shelf.path(file).with_name(f"{file.name}.part")
    request = Request(
        size=file.size,
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


def _disk_failure(error: OSError, shelf: Shelf) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f"{shelf.asset.size:,} bytes" if shelf.asset.size else "more than there is"
        return (
            f"the disk that holds {shelf.folder} is full: {shelf.asset.name} needs {needed}; "
            "free some space, or set CUTAWAY_CACHE to a folder on another disk"
        )
    why = error.strerror or type(error).__name__
    return f"the cache folder {shelf.folder} cannot be used ({why}): set CUTAWAY_CACHE to a folder that can be written"
