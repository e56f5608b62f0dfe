"""How much of a count is done, where somebody is watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cutaway.report.terminal import stderr_console

__all__ = ["count_progress", "step_progress"]


@contextmanager
def count_progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of how many of how many are done, which shows them on standard error; a pipe is told nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(unit, total=None)
        yield lambda n_done, n_total: progress.update(task, completed=n_done, total=n_total)


@contextmanager
def step_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Give a function of how many of how many steps are done and what they have come to, which shows them as `count_progress` does."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("{task.description}"))
    console = stderr_console()
    with Progress(
        *columns, TimeRemainingColumn(compact=True), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda n_done, n_total, said: bar.update(task, completed=n_done, total=n_total, description=said)
