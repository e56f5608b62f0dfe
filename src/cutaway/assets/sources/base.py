"""What a source is: one place a file can come from, and what it must be told and must tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cutaway.runtime import file_sha256

__all__ = ["Report", "SourceError", "Provenance", "Request", "Source", "check_sha256"]


Report = Callable[[int, int, str], None]
"""Called with the bytes that are here, the bytes there will be, and what they are."""


class SourceError(Exception):
    """One line that says why a source did not give its file."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a file in the cache came from, as the manifest keeps it."""

    source: str
    repo: str | None = None
    revision: str | None = None
    archive_sha256: str | None = None
    converter: str | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a source is told: what is expected, where to work, whom to tell of progress.

    `work` lasts one fetch, so that two files of one wheel download it once. `revisions` are the hub commits enforced,
    by repository.
    """

    n_bytes: int | None
    sha256: str | None
    work: Path
    report: Report
    revisions: Mapping[str, str]

    def pinned(self) -> tuple[int, str]:
        """Return the size and hash that the catalogue states; raises SourceError when it states none."""
        if self.n_bytes is None or self.sha256 is None:
            raise SourceError("the catalogue states no size and sha256, and this source vouches for neither")
        return self.n_bytes, self.sha256


class Source(ABC):
    """One place a file can come from; its text names the place in a few words."""

    @property
    def converter(self) -> str | None:
        """The converter and its version when the file is derived, otherwise None."""
        return None

    @abstractmethod
    def write(self, target: Path, request: Request) -> Provenance:
        """Write the file to `target`; raises SourceError in one line, and OSError when this machine's disk fails."""


def check_sha256(path: Path, expected: str) -> None:
    """Raise SourceError when the file's sha256 is not the one expected."""
    if (found := file_sha256(path)) != expected:
        raise SourceError(f"its sha256 is {found}, not {expected}")
