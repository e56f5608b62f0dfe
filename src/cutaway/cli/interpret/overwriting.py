"""What a command writes at its end: refused before anything is computed where it could not be, or where something is not to be lost."""

from __future__ import annotations

from pathlib import Path

from cutaway.cli.errors import UsageError
from cutaway.cli.pages import check_parent

__all__ = ["check_new", "check_new_file"]


def check_new(folder: Path, file: str, what: str, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder whose `file` says that `what` is there already and is not to be lost."""
    if (folder / file).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds {what} already: give another folder, or --overwrite")


def check_new_file(file: Path, what: str, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, a file for `what` that could not be written, or that is there and is not to be lost."""
    check_parent(file)
    if file.is_dir():
        raise UsageError(f"{file} is a folder: give a file to write {what} to")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} is there already: give another file, or --overwrite")
