"""Which code it was that was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cutaway.runtime import file_sha256

__all__ = ["revision_of"]


def revision_of(file: Path) -> str:
    """Return the commit of the clone that a file lies in, with a word when the clone was changed, or else the file's sha256."""
    commit, changes = _git(file.parent, "rev-parse", "HEAD"), _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    if commit is None or _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return f"{file.name} of sha256 {file_sha256(file)}"
    return f"commit {commit}{', changed' if changes else ''}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        said = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
