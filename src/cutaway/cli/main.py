"""The command's entry: it finds the verb, imports that verb's module alone, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from cutaway.cli.errors import UsageError, report_error, reporting_warnings

__all__ = ["VERBS", "NESTED", "main"]

VERBS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "train a small GPT on Shakespeare in minutes, see it learn",
    },
    "Make": {
        "train": "a model from a preset, or go on with a run",
        "generate": "text from a run, a pretrained model or random weights",
    },
    "Look": {
        "inspect": "a run or a model: configuration, parameters, loss, checkpoints",
        "evaluate": "perplexity, HellaSwag, LAMBADA; where two models part",
        "interpret": "what happens inside: attention, heads, circuits, patching",
    },
    "Set up": {
        "download": "models, vocabularies, corpora: list, fetch, verify",
        "bench": "decoding and forward passes, beside the limits of the machine",
        "doctor": "what this machine has: versions, device, memory, sources, compiler",
    },
}
"""The verbs by group, in the order in which they are shown. `cutaway NAME` calls the function NAME of cutaway.cli.NAME."""

NESTED = frozenset({"interpret"})
"""The verbs that have verbs of their own, which the package cutaway.cli.NAME lists."""

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
        case [] | ["-h" | "--help" | "help"]:
            from cutaway.cli.help import print_overview

            print_overview("cutaway", VERBS, about="a GPT you can see inside", takes="COMMAND [OPTIONS]", hints=_HINTS)
        case ["-h" | "--help" | "help", verb, *rest]:
            _run_verb(verb, ["--help", *rest])
        case ["--version", *_]:
            import cutaway

            print(f"cutaway {cutaway.__version__}")
        case [verb, *rest]:
            _run_verb(verb, rest)


def _run_verb(verb: str, arguments: list[str]) -> None:
    _check_known(verb, VERBS, "", ["--version", "--help"])
    if verb in NESTED:
        _run_nested(verb, arguments)
    else:
        _run_command((verb,), arguments)


def _run_nested(group: str, arguments: list[str]) -> None:
    """Run a verb of a verb, or show what there is."""
    package = import_module(f"cutaway.cli.{group}")
    match arguments:
        case [] | ["-h" | "--help" | "help"]:
            from cutaway.cli.help import print_overview

            print_overview(f"cutaway {group}", package.VERBS, about=package.ABOUT, takes=package.TAKES, hints=package.HINTS)
        case ["-h" | "--help" | "help", verb, *rest]:
            _run_nested(group, [verb, "--help", *rest])
        case [verb, *rest]:
            _check_known(verb, package.VERBS, f"{group} ", ["--help"])
            _run_command((group, verb), rest)


def _run_command(names: tuple[str, ...], arguments: list[str]) -> None:
    from cutaway.cli.command import before_dashes, load_command

    command = load_command(*names)
    if not {"-h", "--help"}.isdisjoint(before_dashes(arguments)):
        from cutaway.cli.help import print_help

        print_help(command, arguments)
    else:
        command(arguments)


def _check_known(verb: str, verbs: Mapping[str, Mapping[str, str]], group: str, flags: Sequence[str]) -> None:
    """Raise UsageError for a verb that there is not; `group` is the verb whose own verbs these are, and a space."""
    known = _names(verbs)
    if verb in known:
        return
    homes = [] if group else [home for home in sorted(NESTED) if verb in _names(import_module(f"cutaway.cli.{home}").VERBS)]
    near = [f"{home} {verb}" for home in homes] or difflib.get_close_matches(verb.lower().replace("_", "-"), [*known, *flags], n=1)
    meant = f"did you mean `cutaway {group}{near[0]}`?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"there is no command {f'{group}{verb}'!r}; {meant}")


def _names(verbs: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [name for entries in verbs.values() for name in entries]


def _is_terminal() -> bool:
    """Return whether a menu can be shown here and answered."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
