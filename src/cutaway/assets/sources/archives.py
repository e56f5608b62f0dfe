"""Members of archives, read as data: nothing is written by an archive's own paths, and no link is followed."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cutaway.assets.sources.base import SourceError

__all__ = ["stream_zip_member", "read_tar_members"]

_CHUNK = 1 << 20


def stream_zip_member(archive: Path, member: str, *, target: Path, size: int) -> None:
    """Write the one regular member of that name and size to `target`; raises SourceError for anything else."""
    with _readable(archive), zipfile.ZipFile(archive) as opened:
        found = [info for info in opened.infolist() if info.filename == member]
        if len(found) != 1:
            raise SourceError(f"it holds {len(found)} members named {member}, not one")
        mode = found[0].external_attr >> 16
        if found[0].is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
            raise SourceError(f"{member} in it is not a regular file")
        _check_size(member, found[0].file_size, size)
        with opened.open(found[0]) as stream, target.open("wb") as file:
            for chunk in _limited(stream.read, member, size):
                file.write(chunk)


def read_tar_members(archive: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return the contents of the members named, each regular, there once and of the size stated, in the order asked.

    Raises SourceError for anything else.
    """
    contents: dict[str, bytes] = {}
    with _readable(archive), tarfile.open(archive, "r:gz") as opened:
        for info in opened:
            if info.name not in sizes:
                continue
            if info.name in contents:
                raise SourceError(f"it holds {info.name} more than once")
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise SourceError(f"{info.name} in it is not a regular file")
            _check_size(info.name, info.size, sizes[info.name])
            stream = opened.extractfile(info)
            if stream is not None:
                contents[info.name] = b"".join(_limited(stream.read, info.name, info.size))
    if missing := sizes.keys() - contents.keys():
        raise SourceError(f"it does not hold {min(missing)}")
    return {name: contents[name] for name in sizes}


def _check_size(member: str, found: int, expected: int) -> None:
    if found != expected:
        raise SourceError(f"{member} in it has {found:,} bytes, not {expected:,}")


def _limited(read: Callable[[int], bytes], member: str, size: int) -> Iterator[bytes]:
    """Yield what is read in chunks; what an archive declares and what it unpacks to need not agree."""
    n_done = 0
    while chunk := read(min(_CHUNK, size - n_done + 1)):
        n_done += len(chunk)
        if n_done > size:
            raise SourceError(f"{member} in it unpacks to more than its {size:,} bytes")
        yield chunk
    if n_done < size:
        raise SourceError(f"{member} in it unpacks to {n_done:,} of its {size:,} bytes")


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        # zipfile says with a RuntimeError that a member is encrypted
        raise SourceError(f"{archive.name} is not a readable archive ({error})") from error
