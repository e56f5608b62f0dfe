"""Pages that a command writes beside what it shows."""

from __future__ import annotations

from pathlib import Path

from cutaway.cli.errors import UsageError

__all__ = ["check_page", "check_parent"]


def check_page(report: Path | None) -> None:
    """Refuse, before anything is computed, a page that could not be written or opened."""
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report is {str(report)!r}; expected a file that ends in .html")
    if report is not None:
        check_parent(report)


def check_parent(file: Path) -> None:
    """Refuse a file in a folder that is not there."""
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {file.absolute().parent} to write {file.name} in")
