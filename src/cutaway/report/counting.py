"""How much of a count is done, where somebody is watching."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from cutaway.report.numbers import format_duration
from cutaway.report.terminal import stderr_console

__all__ = ["count_progress", "step_progress"]

_PATIENCE_S = 10  # what takes longer is worth a line


@contextmanager
def count_progress(unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function of how many of how many are done, which shows them on standard error; a pipe is told once, if it takes long.

    How many there will be may be None, where nobody knows.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    count = TextColumn("{task.fields[count]}")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), count, TimeRemainingColumn(compact=True))
    console = stderr_console()
    if not console.is_terminal:
        yield _saying_once(console, unit)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(unit, total=None, count="")
        yield lambda n_done, n_total: progress.update(task, completed=n_done, total=n_total, count=_of(n_done, n_total))


@contextmanager
def step_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Give a function of how many of how many steps are done and what they have come to, which shows them as `count_progress` does."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("{task.description}"))
    console = stderr_console()
    if not console.is_terminal:
        say = _saying_once(console, "steps")
        yield lambda n_done, n_total, _: say(n_done, n_total)
        return
    with Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda n_done, n_total, said: bar.update(task, completed=n_done, total=n_total, description=said)


def _of(n_done: int, n_total: int | None) -> str:
    return f"{n_done:,}" if n_total is None else f"{n_done:,} of {n_total:,}"


def _saying_once(console: Console, unit: str) -> Callable[[int, int | None], None]:
    """Return a function of how many of how many are done that says so a single time, after a while, with how long is left.

    Where it begins to count anew, as for the next seed, the time is that of the new count.
    """
    start, n_before, has_said = time.monotonic(), 0, False

    def progress(n_done: int, n_total: int | None) -> None:
        nonlocal start, n_before, has_said
        if n_done < n_before:
            start = time.monotonic()
        n_before = n_done
        took_s = time.monotonic() - start
        if has_said or took_s < _PATIENCE_S or n_total is None or not 0 < n_done < n_total:
            return
        has_said = True
        left = format_duration((n_total - n_done) * took_s / n_done)
        console.print(f"{unit}: {_of(n_done, n_total)}, about {left} left", markup=False, highlight=False, soft_wrap=True)

    return progress
