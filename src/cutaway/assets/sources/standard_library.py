"""Python's own library as a corpus: real code on every machine, without a network."""

from __future__ import annotations

import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutaway.assets.sources.base import Provenance, Request, Source, SourceError

__all__ = ["StandardLibrary", "MAX_BYTES"]

MAX_BYTES = 8 * 2**20
"""The corpus ends before the module that would make it longer."""

# Tests; packages that are not Python's own; and tables that a program wrote.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}


@dataclass(frozen=True)
class StandardLibrary(Source):
    """The sources of the running Python's library, joined in the order of their paths."""

    def __str__(self) -> str:
        return "the library of this Python"

    @property
    def converter(self) -> str:
        """The converter's version and Python's: another Python is another text."""
        return f"stdlib 1, Python {platform.python_version()}"

    def write(self, target: Path, request: Request) -> Provenance:
        """Write whole modules, up to 8 MiB of UTF-8 in all."""
        folder = Path(sysconfig.get_path("stdlib"))
        n_written = 0
        with target.open("wb") as file:
            for module in _modules(folder):
                content = (_read(module).rstrip() + "\n\n\n").encode()
                if n_written + len(content) > MAX_BYTES:
                    break
                n_written += file.write(content)
        if n_written == 0:
            target.unlink()
            raise SourceError(f"{folder} holds no Python sources")
        request.report(n_written, n_written, target.stem)
        return Provenance(source=str(self), converter=self.converter)


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        # _sysconfigdata holds the paths and flags of one build
        if _LEFT_OUT.isdisjoint(parts) and not path.name.startswith("_sysconfigdata") and path.stat().st_size:
            yield path


def _read(module: Path) -> str:
    try:
        with tokenize.open(module) as file:  # in the encoding that the module declares
            return file.read()
    except (OSError, SyntaxError, UnicodeError) as error:
        raise SourceError(f"{module} cannot be read ({error})") from error
