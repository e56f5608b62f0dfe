"""The one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cutaway.runtime import this_rank

__all__ = ["UsageError", "describe", "report_error", "report_warning", "reporting_warnings"]

_MISTAKES = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FIRST_SPEAKS_S = 5.0
"""How long a silent process waits at its end: torchrun ends all others with it, the one that is to speak among them."""
_HOW_TO_SEE = "run it again with CUTAWAY_TRACEBACK=1 to see where"


class UsageError(ValueError):
    """The command line itself cannot be understood."""


def report_error(error: BaseException) -> int:
    """Say on standard error in one sentence what went wrong, and return the exit code.

    2: what was given cannot be used. 1: something failed. 130: interrupted. What the error is noted to be about stands first. The
    traceback is shown when CUTAWAY_TRACEBACK is set.
    """
    if not _may_speak(error):
        time.sleep(_FIRST_SPEAKS_S)
        return _judge(error)[0]
    if isinstance(error, BrokenPipeError):  # whoever read the output has enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if os.environ.get("CUTAWAY_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    code, sentence = _judge(error)
    if isinstance(error, KeyboardInterrupt) and not error.args and sys.stderr.isatty():
        print(file=sys.stderr)  # the terminal wrote ^C, and may be in the middle of a text
    about = [note for note in getattr(error, "__notes__", ()) if not sentence.startswith(note)]
    _print_error(": ".join([*about, sentence]))
    return code


def _may_speak(error: BaseException) -> bool:
    """Return whether this process reports an error: of several that torchrun started the first, or one noted to be alone with it."""
    return this_rank().is_first or any(note.startswith("rank ") for note in getattr(error, "__notes__", ()))


def describe(error: BaseException) -> str:
    """Return in one sentence what went wrong."""
    return _judge(error)[1]


def report_warning(sentence: str) -> None:
    """Say on standard error what does not stop the command."""
    from rich.text import Text

    from cutaway.report import print_sentence, stderr_console

    print_sentence(stderr_console(), Text(f"[{sentence}]", style="dim"))


@contextmanager
def reporting_warnings() -> Iterator[None]:
    """Report each Python warning once, as a sentence, without the line of code that it comes from."""
    said: set[str] = set()

    def report_once(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            report_warning(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = report_once
        yield


def _judge(error: BaseException) -> tuple[int, str]:
    match error:
        case KeyboardInterrupt():
            return 130, str(error) or "interrupted"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return 1, f"the disk is full: {_file_of(error)} could not be written; free some space and run it again"
        case OSError():
            return 2 if isinstance(error, _MISTAKES) else 1, _describe_os_error(error)
        case ValueError():
            return 2, str(error)
        case ModuleNotFoundError(name=str(module)) if module.partition(".")[0] != "cutaway":
            return 1, f"the package {module.partition('.')[0]!r} is not installed; install it with pip"
        case MemoryError() | RuntimeError() if _is_memory(error):
            return 1, f"there is not enough memory ({_first_line(error)}): use a smaller batch, context or model"
        case RuntimeError() if _is_ours(error):
            return 1, str(error)
        case RuntimeError() if type(error) is not RuntimeError:
            return 1, _first_line(error)  # torch adds what concerns its developers
        case _:
            return 1, f"this is a bug in cutaway ({type(error).__name__}: {_first_line(error)}); {_HOW_TO_SEE}"


def _describe_os_error(error: OSError) -> str:
    if error.errno is None or error.strerror is None:  # raised with a sentence
        return str(error)
    return f"{_file_of(error)}: {error.strerror[0].lower()}{error.strerror[1:]}"


def _file_of(error: OSError) -> str:
    return str(error.filename2 or error.filename or "a file or the output")


def _is_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def _is_ours(error: BaseException) -> bool:
    """Return whether cutaway itself raised the exception, and so chose its words."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] == "cutaway"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _print_error(sentence: str) -> None:
    from rich.text import Text

    from cutaway.report import print_sentence, stderr_console

    console = stderr_console()
    console.quiet = False  # who may speak has been decided
    print_sentence(console, Text.assemble(("cutaway: ", "bold red"), sentence))
