"""What an asset is: a name, a line about it, and files that each have their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cutaway.assets.sources import Source

__all__ = ["Asset", "File"]


@dataclass(frozen=True)
class File:
    """One file of an asset: its size in bytes and sha256 where they can be known beforehand, its sources in order."""

    name: str
    sources: tuple[Source, ...]
    n_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Asset:
    """Something cutaway can fetch by name: what it is, in a line, under which licence, and its files."""

    name: str
    kind: Literal["model", "vocabulary", "corpus", "dataset"]
    about: str
    licence: str
    files: tuple[File, ...]
    n_parameters: int | None = None
    """How many numbers a model is made of."""

    @property
    def memory_bytes(self) -> int | None:
        """The bytes of a model's weights in float32, which is what running it takes and a little more; None for the rest."""
        return None if self.n_parameters is None else 4 * self.n_parameters

    @property
    def n_bytes(self) -> int | None:
        """The bytes of all files together; None when one is only known once it is made."""
        sizes = [file.n_bytes for file in self.files if file.n_bytes is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of all files, in order."""
        return tuple(source for file in self.files for source in file.sources)
