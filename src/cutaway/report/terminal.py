"""Small helpers around rich: where text goes, and the one style that tables have."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cutaway.runtime import this_rank

__all__ = [
    "stdout_console",
    "stderr_console",
    "is_unicode",
    "print_sentence",
    "table",
    "filled_table",
    "fields_table",
    "print_json",
]

_WORD = re.compile(r"\S*`[^`]*`\S*|\S+")  # a command between backticks is one word

# A thin rule under the header and above the footer, no frame: what stands in the table is its own frame.
_RULES = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")


def stdout_console() -> Console:
    """Return the console for results: the terminal's width, 80 columns when piped; NO_COLOR is respected.

    Of several processes that torchrun started only the first speaks, on both consoles.
    """
    return Console(highlight=False, quiet=not this_rank().is_first)


def stderr_console() -> Console:
    """Return the console for progress and errors."""
    return Console(stderr=True, highlight=False, quiet=not this_rank().is_first)


def is_unicode(console: Console) -> bool:
    """Return whether the console's encoding has the drawing characters."""
    return not console.options.ascii_only


def print_sentence(console: Console, sentence: Text) -> None:
    """Print by whole words on a terminal, a command between backticks in one piece, to be copied; a pipe gets whole lines."""
    for line in sentence.split("\n"):
        for part in _broken(line, console.width) if console.is_terminal else [line]:
            console.print(part, soft_wrap=True)


def _broken(line: Text, width: int) -> Iterator[Text]:
    """Yield the lines that words fill, each indented as the first."""
    indent = len(line.plain) - len(line.plain.lstrip())
    start = 0
    for word in _WORD.finditer(line.plain):
        room = width if start == 0 else width - indent
        if word.end() - start > room and word.start() > max(start, indent):
            yield Text(" " * indent if start else "").append_text(_without_end(line[start : word.start()]))
            start = word.start()
    yield Text(" " * indent if start else "").append_text(line[start:])


def _without_end(text: Text) -> Text:
    text.rstrip()
    return text


def table(*headers: str, right: Collection[str] = (), title: str | None = None, footer: Mapping[str, str] | None = None) -> Table:
    """Return an empty table of the house style; the columns named in `right` hold numbers and align right.

    Cells are plain text, or rich's Text where they have a colour; `footer` gives some columns a last line. Columns are never cut:
    where the table is too wide, cells go on in the next line.
    """
    grid = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=_RULES,
        show_edge=False,
        show_footer=footer is not None,
        header_style="bold",
        footer_style="bold",
        border_style="dim",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for header in headers:
        grid.add_column(header, (footer or {}).get(header, ""), justify="right" if header in right else "left", overflow="fold")
    return grid


def filled_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> Table:
    """Return a table of the house style with its rows."""
    grid = table(*headers, right=right)
    for row in rows:
        grid.add_row(*row)
    return grid


def fields_table(fields: Mapping[str, object], *, title: str | None = None, style: str = "") -> Table:
    """Return names and values in two columns, the names dimmed."""
    grid = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style=style, overflow="fold")
    for name, value in fields.items():
        grid.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return grid


def print_json(value: Any) -> None:
    """Print a value for a program to read: indented JSON on standard output, never coloured; infinities and NaN are null there."""
    if this_rank().is_first:
        print(json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False))


def _finite(value: Any) -> Any:
    """Put None for every float that JSON has no way to write."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
