"""What `--help` shows: of the command as a whole, and of one verb."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutaway.cli.command import Command
from cutaway.cli.option import Option
from cutaway.report import is_unicode, stdout_console

__all__ = ["print_overview", "print_help"]

_MAX_WIDTH = 100  # longer lines of prose are hard to read
_LEAST_BESIDE = 40  # columns that a text needs to stand beside its option
_WORD = re.compile(r"""(?:[^\s"]|"[^"]*")+""")
_COMMENTED = re.compile(r"(\S.*?) {2,}(\S.*)")


def print_overview(
    command: str, verbs: Mapping[str, Mapping[str, str]], *, about: str, takes: str, hints: Mapping[str, str]
) -> None:
    """Print a command's verbs in their groups, a line each; `takes` is what follows a verb, `hints` are commands that tell more."""
    console = _console()
    dot = "·" if is_unicode(console) else "-"
    console.print(Text.assemble((command, "bold"), f" {dot} {about}\n"))
    console.print(Text.assemble(("Usage  ", "bold"), f"{command} {takes}\n"))
    widest = max(len(verb) for entries in verbs.values() for verb in entries)
    for group, entries in verbs.items():
        console.print(Text(group, style="bold"))
        console.print(_rows([(verb, Text(summary)) for verb, summary in entries.items()], widest=widest))
        console.print()
    widest = max(map(len, hints))
    for hint, what in hints.items():
        console.print(Text.assemble((f"{hint:{widest}}", "cyan"), f"  {what}"))


def print_help(command: Command, arguments: Sequence[str] = ()) -> None:
    """Print what a verb does, its arguments and options, and examples; `arguments` may name the preset whose defaults to show."""
    console = _console()
    options = command.options_with_defaults(arguments)
    positional = "".join(f" {option.usage()}" for option in options if option.is_positional)
    needed = "".join(f" {option.usage()}" for option in options if option.is_needed and not option.is_positional)
    console.print(Text.assemble(("Usage  ", "bold"), f"cutaway {command.name}{positional}{needed} [OPTIONS]\n"))
    for paragraph in command.sections[""].split("\n\n"):
        console.print(Text(" ".join(paragraph.split()) + "\n"))
    groups: dict[str, list[tuple[str, Text]]] = {}
    for option in options:
        groups.setdefault(option.group, []).append((option.usage(), _about(option)))
    groups.setdefault("Options", []).append(("-h, --help", Text("show this")))
    widest = max(len(usage) for rows in groups.values() for usage, _ in rows)
    for group, rows in groups.items():
        console.print(Text(group, style="bold"))
        console.print(_rows(rows, widest=widest) if console.width - widest >= _LEAST_BESIDE else _stacked(rows))
        console.print()
    if "Examples" in command.sections:
        _print_lines("Examples", _examples(command.sections["Examples"], console.width), console, joint=" \\")
    if "In Python" in command.sections:
        _print_lines("In Python", [Text(line) for line in command.sections["In Python"].splitlines()], console)


def _console() -> Console:
    console = stdout_console()
    console.width = min(console.width, _MAX_WIDTH)
    return console


def _rows(rows: Sequence[tuple[str, Text]], *, widest: int) -> RenderableType:
    """Return options with their texts beside them, in a column that begins at the same place in every group."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=widest, no_wrap=True)
    grid.add_column(overflow="fold")
    for usage, about in rows:
        grid.add_row(Text(usage, style="cyan"), about)
    return Padding(grid, (0, 0, 0, 2))


def _stacked(rows: Sequence[tuple[str, Text]]) -> RenderableType:
    """Return options with their texts below them, where there is no room beside."""
    grid = Table.grid()
    grid.add_column(overflow="fold")
    for usage, about in rows:
        grid.add_row(Text(usage, style="cyan"))
        if about:
            grid.add_row(Padding(about, (0, 0, 0, 4)))
    return Padding(grid, (0, 0, 0, 2))


def _examples(text: str, width: int) -> list[Text]:
    """Return commands, what they do beside them, or above where a line would not fit."""
    lines = text.splitlines()
    is_wide = max(map(len, lines)) + 2 <= width
    shown = []
    for line in lines:
        match = _COMMENTED.fullmatch(line)
        if match is None or is_wide:
            command, comment = (line[: match.start(2)], match[2]) if match else (line, "")
            shown.append(Text.assemble(command, (comment, "dim")))
        else:
            shown += [Text(f"# {match[2]}", style="dim"), Text(match[1])]
    return shown


def _print_lines(head: str, lines: Sequence[Text], console: Console, *, joint: str = "") -> None:
    """Print lines to be copied; one that is too long goes on below, after what `joint` its language wants there."""
    console.print(Text(head, style="bold"))
    for line in lines:
        for part in _parts(line, console.width - 2, joint):
            console.print(Text("  ").append_text(part), soft_wrap=True)
    console.print()


def _parts(line: Text, width: int, joint: str) -> list[Text]:
    """Break a line between words, what stands in quotes being one."""
    if line.cell_len <= width:
        return [line]
    indent = len(line.plain) - len(line.plain.lstrip())
    parts: list[str] = []
    for word in _WORD.findall(line.plain):
        longer = f"{parts[-1]} {word}" if parts else " " * indent + word
        if parts and len(longer) + len(joint) > width:
            parts[-1] += joint
            parts.append(" " * (indent + 4) + word)
        else:
            parts = [*parts[:-1], longer]
    return [Text(part) for part in parts]


def _about(option: Option) -> Text:
    text = Text(option.about)
    if option.shown_default:
        default = f"default {option.shown_default}"
        text.append(f" ({default})" if option.about else default, style="dim")
    return text
