"""What lessons of the course are made of: the library's code shown, sentences with computed numbers, figures, exercises with checks.

The same calls serve a notebook, where they display, and a terminal, where they print and write figures beside the runs.
"""

from __future__ import annotations

import ast
import base64
import html
import inspect
import io
import itertools
import math
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from pygments.token import Token
from rich.markdown import Markdown
from rich.markup import escape
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text

from cutaway.plots.style import save_figure
from cutaway.report import print_sentence, stdout_console
from cutaway.values import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show", "say", "figure", "pick", "checking", "expect"]

_T = TypeVar("_T")
_FIGURES = Path("runs/course")
_SMALLEST_TEXT = 11  # pixels
_PACKAGE = Path(__file__).parent
_STANDARD_LIBRARY = Path(os.__file__).parent
_numbers_of_figures = itertools.count(1)
_headings_printed = set[str]()
_COLOURS = ANSISyntaxTheme(
    {  # that can be read on dark and on light
        Token.Comment: Style(dim=True),
        Token.Keyword: Style(bold=True),
        Token.Literal.String: Style(color="green"),
        Token.Literal.Number: Style(color="magenta"),
    }
)


def show(thing: Callable[..., Any] | type, *, start: str | None = None, stop: str | None = None) -> None:
    """Display the source of a function or class of the library without its docstrings, and where it stands.

    `start` and `stop` are texts of the first and the last line to show, else all of it. Raises ValueError where the source has no
    such line, so that a lesson cannot show code that is gone, and where a later line is less indented than the first.
    """
    lines, first = inspect.getsourcelines(thing)
    kept = _without_docstrings(lines)
    begin = 0 if start is None else _line_with(lines, start, 0, thing)
    end = len(lines) - 1 if stop is None else _line_with(lines, stop, begin, thing)
    cut = [line for number, line in enumerate(lines) if begin <= number <= end and number in kept]
    written = [line for line in cut if line.strip()]
    if any(_indent(line) < _indent(written[0]) for line in written):
        raise ValueError(f"{thing.__module__}.{thing.__qualname__} cannot be shown from {start!r}: a later line is less indented")
    code = textwrap.dedent("".join(cut)).rstrip()
    file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "").relative_to(_PACKAGE.parent)
    place = f"{thing.__module__}.{thing.__qualname__}: src/{file.as_posix()}, line {first + begin}"
    if _in_notebook():
        shown = html.escape(place).replace("_", r"\_")  # `__call__` would be bold
        _display_markdown(f"```python\n{code}\n```\n\n<small>{shown}</small>")
    else:
        _announce()
        console = stdout_console()
        console.print(place, style="dim", soft_wrap=True)
        console.print(Syntax(code, "python", theme=_COLOURS, background_color="default", word_wrap=True))


def say(text: str) -> None:
    """Display a text of Markdown, which a lesson makes with the numbers it has just computed."""
    text = textwrap.dedent(text).strip()
    if _in_notebook():
        _display_markdown(text)
    else:
        _announce()
        formulas_kept = re.sub(
            r"\$[^$\n]+\$", lambda formula: formula[0].replace("_", r"\_"), text
        )  # else an underscore is emphasis
        stdout_console().print(Markdown(formulas_kept))


def figure(drawn: Figure, caption: str) -> None:
    """Display a figure under a caption that says what to see; a terminal gets a file under `runs/course`."""
    if _in_notebook():
        from IPython.display import HTML, display

        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=160)
        words = html.escape(caption)
        data = base64.b64encode(buffer.getvalue()).decode()
        picture = f'<img src="data:image/png;base64,{data}" alt="{words}" width="{_width(drawn)}">'
        display(HTML(f"<figure>{picture}<figcaption>{words}</figcaption></figure>"))
    else:
        _announce()
        name = "-".join([f"{next(_numbers_of_figures):02d}", *re.findall(r"[a-z0-9]+", caption.lower())[:4]])
        folder = _FIGURES / (Path(_main_file()).stem or "lesson")
        folder.mkdir(parents=True, exist_ok=True)
        print_sentence(stdout_console(), Text.assemble((f"{save_figure(drawn, folder / f'{name}.png')}: ", "dim"), caption))


def _width(drawn: Figure) -> int:
    """Return how many pixels wide a figure is where its smallest text can be read."""
    from matplotlib.text import Text

    texts = [text for text in drawn.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text().strip()]
    smallest = min((float(text.get_fontsize()) for text in texts), default=10.0)
    return math.ceil(drawn.get_figwidth() * 72 / smallest * _SMALLEST_TEXT)


def pick(*, fast: _T, full: _T) -> _T:
    """Return `fast`, or `full` where the environment says CUTAWAY_COURSE=full: the sizes of the same lesson for minutes, not seconds.

    Raises ValueError for another value of that variable.
    """
    setting = os.environ.get("CUTAWAY_COURSE", "fast")
    if setting not in ("fast", "full"):
        raise ValueError(f"CUTAWAY_COURSE is {shortened(setting)}; expected fast or full")
    return full if setting == "full" else fast


@contextmanager
def checking(exercise: str) -> Iterator[None]:
    """Print in one line whether the checks inside hold for what the reader wrote; what they raise ends there.

    An error that is no finding of a check comes with the line of the reader's function in which it arose.

    >>> from cutaway.lesson import checking, expect
    >>> with checking("double"):
    ...     expect(2 + 2, 5, "twice two")
    ✗ double: twice two: expected 5, got 4
    """
    if not _in_notebook():
        _announce(gap=False)
    try:
        yield
    except Exception as error:
        print(f"✗ {exercise}: {_finding(error)}")
    else:
        print(f"✓ {exercise}")


def _finding(error: Exception) -> str:
    """Return in one sentence what a check found."""
    if isinstance(error, AssertionError):
        return str(error)
    place = _place_of(error)
    if not place and re.search(r"'(ellipsis|NoneType)'", str(error)):  # of what the check was given to look at
        return "nothing is returned yet"
    return f"{type(error).__name__}: {error}{place}"


def _place_of(error: Exception) -> str:
    """Return where in a function of the reader an error arose, as far as the traceback tells, else nothing."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is that of `checking`
    mine = [frame for frame in frames if not _is_library(frame.filename)]
    if not mine or mine[-1].name == "<module>":
        return ""
    line = f": {mine[-1].line}" if mine[-1].line else ""
    return f" (in {mine[-1].name}, line {mine[-1].lineno}{line})"


def _is_library(filename: str) -> bool:
    parents = Path(filename).parents
    return filename.startswith("<frozen") or "site-packages" in filename or _PACKAGE in parents or _STANDARD_LIBRARY in parents


def expect(actual: object, expected: object, what: str, *, tolerance: float = 1e-5) -> None:
    """Raise AssertionError in a sentence about `what` unless a tensor, number, text or list is as expected.

    Numbers and tensors may differ by `tolerance * (1 + abs(expected))`; tensors must have the same shape. A list is as good as a tuple.
    """
    if isinstance(actual, EllipsisType) or actual is None:
        raise AssertionError(f"{what}: nothing is returned yet")
    if _is_numeric(expected):
        _expect_numbers(actual, _array(expected), what, tolerance)
    elif not _are_equal(actual, expected):
        raise AssertionError(f"{what}: expected {shortened(expected)}, got {shortened(actual)}")


def _expect_numbers(actual: object, expected: np.ndarray, what: str, tolerance: float) -> None:
    if not _is_numeric(actual):
        raise AssertionError(f"{what}: expected {_numbers(expected)}, got {shortened(actual)}")
    given = _array(actual)
    if given.shape != expected.shape:
        raise AssertionError(f"{what}: expected the shape {expected.shape}, got {given.shape}")
    wrong = ~np.isclose(given.astype(float), expected.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True)
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        where = f" at {list(place)}" if place else ""
        raise AssertionError(
            f"{what}: expected {_numbers(np.asarray(expected[place]))}{where}, got {_numbers(np.asarray(given[place]))}"
        )


def _are_equal(actual: object, expected: object) -> bool:
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(map(_are_equal, actual, expected))
    return bool(actual == expected)


def _is_numeric(value: object) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray | np.number | int | float):
        return True
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0 and all(map(_is_numeric, value))


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype is torch.bfloat16 else value  # numpy has none
    return np.asarray(value)


def _numbers(values: np.ndarray) -> str:
    return shortened(values.item()) if values.ndim == 0 else shortened(values.tolist())


def _without_docstrings(lines: Sequence[str]) -> set[int]:
    """Return the numbers of the lines that are no docstring."""
    tree = ast.parse(textwrap.dedent("".join(lines)))
    gone = {
        number - 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or node.body[0].lineno) + 1)
    }
    after = {number + 1 for number in gone if number + 1 not in gone and number + 1 < len(lines) and not lines[number + 1].strip()}
    return set(range(len(lines))) - gone - after


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _line_with(lines: Sequence[str], text: str, begin: int, thing: Callable[..., Any] | type) -> int:
    for number in range(begin, len(lines)):
        if text in lines[number]:
            return number
    raise ValueError(f"{thing.__module__}.{thing.__qualname__} has no line with {text!r}")


def _main_file() -> str:
    return str(getattr(sys.modules["__main__"], "__file__", None) or "")


def _announce(*, gap: bool = True) -> None:
    """Print the heading of the lesson under which its running line stands, so that one finds what is printed in the source.

    An empty line, unless there is to be no `gap`, keeps what is printed under one heading apart.
    """
    line, frame = 0, inspect.currentframe()
    while frame is not None:
        line = frame.f_lineno if frame.f_code.co_filename == _main_file() else line  # the outermost, not that of a function
        frame = frame.f_back
    if line:
        before = Path(_main_file()).read_text(encoding="utf-8").splitlines()[:line]
        headings = [text for text in before if re.match(r"# ##? ", text)]
        if headings and headings[-1] not in _headings_printed:
            _headings_printed.add(headings[-1])
            stdout_console().print(f"\n[bold underline]{escape(headings[-1].lstrip('# '))}[/]\n")
        elif headings and gap:
            stdout_console().print()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def _display_markdown(text: str) -> None:
    from IPython.display import Markdown as NotebookMarkdown
    from IPython.display import display

    display(NotebookMarkdown(text))
