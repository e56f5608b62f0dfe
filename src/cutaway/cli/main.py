"""The command's entry: it finds the verb, imports that verb's module alone, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence

from cutaway.cli.errors import UsageError, report_error, reporting_warnings
from cutaway.cli.verbs import NESTED, VERBS, package_of

__all__ = ["main"]

_HINTS = {
    "cutaway": "all of this as a menu, on a terminal",
    "cutaway COMMAND --help": "what a command takes",
    "cutaway --version": "the version",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the arguments given, the process's own unless given, and return its exit code."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character that the terminal lacks is no reason to stop
                stream.reconfigure(errors="replace")
        with reporting_warnings():
            _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except Exception as error:
        return report_error(error)
    except KeyboardInterrupt as error:
        return report_error(error)
    return 0


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] if _is_terminal():
            from cutaway.cli.menu import open_menu

            open_menu(run=main)
        case ["--version", *_]:
            import cutaway

            print(f"cutaway {cutaway.__version__}")
        case _:
            _run_verb((), arguments)


def _run_verb(names: tuple[str, ...], arguments: list[str]) -> None:
    """Run the verb that these names lead to, or one of its own verbs; show what there is where none is given."""
    group = " ".join(names)
    if names and group not in NESTED:
        return _run_command(names, arguments)
    package = package_of(group) if names else None
    verbs = package.VERBS if package else VERBS
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            from cutaway.cli.help import print_overview

            if package is None:
                return print_overview("cutaway", VERBS, about="a GPT you can see inside", takes="COMMAND [OPTIONS]", hints=_HINTS)
            return print_overview(f"cutaway {group}", verbs, about=package.ABOUT, takes=package.TAKES, hints=package.HINTS)
        case ["-h" | "--help" | "help", *rest]:
            return _run_verb(names, [*rest, "--help"])
        case [verb, *rest]:
            _check_known(verb, verbs, f"{group} " if group else "", ["--help"] if group else ["--version", "--help"])
            return _run_verb((*names, verb), rest)


def _run_command(names: tuple[str, ...], arguments: list[str]) -> None:
    from cutaway.cli.command import before_dashes, load_command
    from cutaway.cli.many_processes import check_processes

    command = load_command(*names)
    if not {"-h", "--help"}.isdisjoint(before_dashes(arguments)):
        from cutaway.cli.help import print_help

        print_help(command, arguments)
    else:
        check_processes(" ".join(names), command.function)
        command(arguments)


def _check_known(verb: str, verbs: Mapping[str, Mapping[str, str]], group: str, flags: Sequence[str]) -> None:
    """Raise UsageError for a verb that there is not; `group` is the verb whose own verbs these are, and a space."""
    known = _names(verbs)
    if verb in known:
        return
    homes = [] if group else [home for home in NESTED if verb in _names(package_of(home).VERBS)]
    near = [f"{home} {verb}" for home in homes] or difflib.get_close_matches(verb.lower().replace("_", "-"), [*known, *flags], n=1)
    meant = f"did you mean `cutaway {group}{near[0]}`?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"there is no command {f'{group}{verb}'!r}; {meant}")


def _names(verbs: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [name for entries in verbs.values() for name in entries]


def _is_terminal() -> bool:
    """Return whether a menu can be shown here and answered."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
