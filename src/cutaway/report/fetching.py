"""Bytes as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cutaway.report.terminal import stderr_console

__all__ = ["fetch_progress"]


@contextmanager
def fetch_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Give a function of bytes done, bytes in all, and what they are, which shows them on standard error; a pipe is told nothing."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
    )
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(n_done: int, n_total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=n_total)
            progress.update(tasks[what], completed=n_done, total=n_total)

        yield report
