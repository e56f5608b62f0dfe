"""The menu's round: choose, see which command it is, run it, choose again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from rich.text import Text

from cutaway.cli.errors import report_error
from cutaway.cli.menu.entries import MENU, choose, spell
from cutaway.cli.menu.questions import GoBack, wait_for_key
from cutaway.report import stdout_console

__all__ = ["open_menu"]


def open_menu(*, run: Callable[[Sequence[str]], int]) -> None:
    """Let somebody choose, say which command it is, `run` its arguments, and ask again, until they quit.

    Ctrl-C goes back to the menu from everywhere; in the menu itself it is raised.
    """
    console, place = stdout_console(), 0
    while True:
        try:
            place, entry = choose("What do you want to do?", {"": MENU}, leave="Quit", start=place)
        except GoBack:
            return
        try:
            arguments = spell(entry.words)
        except (GoBack, KeyboardInterrupt):
            continue
        except (ValueError, OSError) as error:  # a run that cannot be read, say
            report_error(error)
            continue
        console.print(Text(f"$ {shlex.join(['cutaway', *arguments])}\n", style="bold"), soft_wrap=True)
        run(arguments)
        try:
            wait_for_key("Any key goes back to the menu.")
        except (EOFError, KeyboardInterrupt):
            continue
