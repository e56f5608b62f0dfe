"""The command's entry: it finds the verb, imports that verb's module alone, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from cutaway.cli.errors import UsageError, report_error, reporting_warnings

__all__ = ["VERBS", "main"]

VERBS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "train a small GPT on Shakespeare in minutes, see it learn",
    },
    "Make": {
        "train": "a model from a preset, or go on with a run",
        "generate": "text from a run, a pretrained model or random weights",
    },
    "Look": {
        "inspect": "a run or a model: configuration, parameters, loss curve, checkpoints",
        "evaluate": "perplexity, HellaSwag, LAMBADA; where two models part",
    },
    "Set up": {
        "download": "models, vocabularies, corpora: list, fetch, verify",
        "bench": "decoding and forward passes, beside the limits of the machine",
        "doctor": "what this machine has: versions, device, memory, sources, compiler",
    },
}
"""The verbs by group, in the order in which they are shown. `cutaway NAME` calls the function NAME of cutaway.cli.NAME."""


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
        case [] | ["-h" | "--help" | "help"]:
            from cutaway.cli.help import print_overview

            print_overview(VERBS)
        case ["-h" | "--help" | "help", verb, *_]:
            _run_verb(verb, ["--help"])
        case ["--version", *_]:
            import cutaway

            print(f"cutaway {cutaway.__version__}")
        case [verb, *rest]:
            _run_verb(verb, rest)


def _run_verb(verb: str, arguments: list[str]) -> None:
    known = [name for group in VERBS.values() for name in group]
    if verb not in known:
        near = difflib.get_close_matches(verb.lower(), [*known, "--version", "--help"], n=1)
        meant = f"did you mean `cutaway {near[0]}`?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"there is no command {verb!r}; {meant}")
    from cutaway.cli.command import Command, before_dashes

    command = Command(verb, getattr(import_module(f"cutaway.cli.{verb}"), verb))
    if not {"-h", "--help"}.isdisjoint(before_dashes(arguments)):
        from cutaway.cli.help import print_help

        print_help(command, arguments)
    else:
        command(arguments)
