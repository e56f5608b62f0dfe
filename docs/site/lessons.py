"""Lessons as the notebooks that the site executes and shows: what is to be guessed or found is folded."""

from __future__ import annotations

import ast
import base64
import itertools
from pathlib import Path

import nbformat
from course.source import KERNEL, Cell, Lesson, read, readers_copy
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from docs.site.markdown import adapt
from docs.site.places import Places

__all__ = ["LessonError", "is_shown_alone", "notebook_of"]

_SPEAKERS = {"show", "say"}
"""The functions of `cutaway.lesson` whose output is the point: the call itself is not shown."""
_TITLES = {"hint": "Hint", "solution": "Solution", "prediction": "The outcome: guess first"}
_LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


class LessonError(ValueError):
    """The cells of a lesson make no page."""


def notebook_of(path: Path, page: str, places: Places) -> NotebookNode:
    """Return a lesson as a notebook of the site; raises LessonError, DeadLinkError or MissingTextError for one that is wrong."""
    try:
        lesson = read(path)
        list(lesson.exercises())
    except ValueError as error:
        raise LessonError(str(error)) from None
    if lesson.cells[0].is_code or not lesson.cells[0].text.startswith("# "):
        raise LessonError(f"{page}: the first cell is no text with a title, a line that begins with one #")
    cells = []
    for tag, group in itertools.groupby(lesson.cells, key=lambda cell: cell.tag):
        several = list(group)
        for number, cell in enumerate(several, 1):
            hint = f"Hint {number}" if tag == "hint" and len(several) > 1 else "Hint"
            cells.append(_code(cell) if cell.is_code else _text(cell, hint, page, places))
    cells[0].source = _with_offer(cells[0].source, lesson)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same notebook each time
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "language_info": _LANGUAGE})


def is_shown_alone(source: str) -> bool:
    """Whether code is nothing but calls of `show` and `say`."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line for IPython alone
        return False
    return bool(body) and all(_speaks(statement) for statement in body)


def _speaks(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name))) | ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))):
            return name in _SPEAKERS
    return False


def _text(cell: Cell, hint: str, page: str, places: Places) -> NotebookNode:
    text = adapt(cell.text, page, places)
    if cell.tag is not None:
        fence = ":" * 7  # more than any that a text has inside
        title = hint if cell.tag == "hint" else _TITLES.get(cell.tag, cell.tag)
        text = f"{fence}{{fold}} {title}\n:kind: {cell.tag}\n\n{text}\n{fence}"
    return new_markdown_cell(text)


def _code(cell: Cell) -> NotebookNode:
    made = new_code_cell(cell.text, metadata={"tags": [cell.tag] if cell.tag else []})
    if cell.tag == "solution":
        _fold(made, "hide-cell", _TITLES["solution"])
    elif cell.tag == "prediction":
        _fold(made, "hide-cell", _TITLES["prediction"])  # the code of an outcome tells it
    elif cell.tag is None and is_shown_alone(cell.text):
        made.metadata["tags"].append("remove-input")
    return made


def _fold(cell: NotebookNode, how: str, title: str) -> None:
    cell.metadata["tags"].append(how)
    cell.metadata["mystnb"] = {"code_prompt_show": title, "code_prompt_hide": title}


def _with_offer(source: str, lesson: Lesson) -> str:
    """Return the first cell with a line under its title that says where the lesson is to be had as files.

    The notebook is in the page itself: of a file beside it a browser that reads from the disk shows the text instead of keeping it.
    """
    title, _, rest = source.partition("\n")
    name = lesson.path.stem
    notebook = base64.b64encode(nbformat.writes(readers_copy(lesson, folder=None)).encode()).decode()
    link = f'<a class="download" download="{name}.ipynb" href="data:application/x-ipynb+json;base64,{notebook}">'
    files = f"{link}a notebook without solutions</a> (`python -m course start {lesson.number}` writes it)"
    offer = f":::{{container}} offer\nTo work in: {files}. To read: [the lesson's one source](shown:course/{name}.py).\n:::"
    return f"{title}\n\n{offer}\n{rest}"
