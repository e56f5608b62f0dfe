"""What `--help` shows: of the command as a whole, and of one verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutaway.cli.command import Command, Option
from cutaway.report import is_unicode, stdout_console

__all__ = ["print_overview", "print_help"]

_MAX_WIDTH = 100  # longer lines of prose are hard to read
_MAX_FLAGS = 30


def print_overview(verbs: Mapping[str, Mapping[str, str]]) -> None:
    """Print the verbs in their groups, a line each."""
    console = _console()
    dot = "·" if is_unicode(console) else "-"
    console.print(Text.assemble(("cutaway", "bold"), f" {dot} a GPT you can see inside\n"))
    console.print(Text.assemble(("Usage  ", "bold"), "cutaway COMMAND [OPTIONS]\n"))
    widest = max(len(verb) for group in verbs.values() for verb in group)
    for group, entries in verbs.items():
        console.print(Text(group, style="bold"))
        console.print(_rows([(f"{verb:{widest}}", Text(summary)) for verb, summary in entries.items()]))
        console.print()
    footer = Text.assemble(
        ("cutaway COMMAND --help", "cyan"),
        " shows what a command takes; ",
        ("cutaway --version", "cyan"),
        " the version.",
    )
    console.print(footer)


def print_help(command: Command) -> None:
    """Print what a verb does, its arguments and options, and examples."""
    console = _console()
    positional = "".join(f" {option.usage()}" for option in command.options if option.is_positional)
    console.print(Text.assemble(("Usage  ", "bold"), f"cutaway {command.name}{positional} [OPTIONS]\n"))
    for paragraph in command.sections[""].split("\n\n"):
        console.print(Text(" ".join(paragraph.split()) + "\n"))
    groups: dict[str, list[Option]] = {}
    for option in command.options:
        groups.setdefault(option.group, []).append(option)
    groups.setdefault("Options", [])
    widest = min(max([len(option.usage()) for option in command.options] + [len("-h, --help")]), _MAX_FLAGS)
    for group, options in groups.items():
        console.print(Text(group, style="bold"))
        rows = [(f"{option.usage():{widest}}", _about(option)) for option in options]
        if group == "Options":
            rows.append((f"{'-h, --help':{widest}}", Text("show this")))
        console.print(_rows(rows))
        console.print()
    for head in ("Examples", "In Python"):
        if head in command.sections:
            console.print(Text(head, style="bold"))
            console.print(Padding(Text(command.sections[head]), (0, 0, 1, 2)))


def _console() -> Console:
    console = stdout_console()
    console.width = min(console.width, _MAX_WIDTH)
    return console


def _rows(rows: Sequence[tuple[str, Text]]) -> Padding:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold", max_width=_MAX_FLAGS)
    grid.add_column(overflow="fold")
    for flag, about in rows:
        grid.add_row(Text(flag, style="cyan"), about)
    return Padding(grid, (0, 0, 0, 2))


def _about(option: Option) -> Text:
    text = Text(option.about)
    if option.shown_default:
        text.append(f" ({option.shown_default})" if option.about else option.shown_default, style="dim")
    return text
