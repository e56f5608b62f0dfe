"""What a command has written before and is not to lose."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_new"]


def check_new(folder: Path, file: str, what: str, *, overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder whose `file` says that `what` is there already and is not to be lost."""
    if (folder / file).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds {what} already: give another folder, or --overwrite")
