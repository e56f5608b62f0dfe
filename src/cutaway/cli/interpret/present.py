"""What an analysis found, where it was asked for: on the terminal, as JSON, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cutaway.report import print_json, print_sentence, stderr_console, stdout_console

if TYPE_CHECKING:
    from cutaway.interp.result import Result

__all__ = ["present"]


def present(result: Result, *, json: bool = False, report: Path | None = None, command: str = "") -> None:
    """Show a result on the terminal, or print it as JSON; where `report` is given, write a page of it too and say so.

    `command`, which does the same again, stands under the page's title.
    """
    if json:
        print_json(result.record())
    else:
        result.show(stdout_console())
    if report is not None:
        written = result.report(report, subtitle=command)
        console = stderr_console() if json else stdout_console()
        print_sentence(console, Text.assemble("\nThe report is in ", (str(written), "bold"), "."))
