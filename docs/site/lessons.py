"""Lessons, Python files of cells, as the notebooks that the site executes and shows: what is to be guessed or found is folded."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from docs.site.markdown import adapt, title_of
from docs.site.places import Places

__all__ = ["LessonError", "folded", "is_shown_alone", "plain_notebook", "read_lesson"]

_SPEAKERS = {"show", "say"}
"""The functions of `cutaway.lesson` whose output is the point: the call itself is not shown."""
_STEPS = ("starter", "hint", "solution", "check")
_TITLES = {"hint": "Hint", "solution": "Solution", "prediction": "The outcome: guess first"}
_LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "python"}
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


class LessonError(ValueError):
    """The cells of a lesson do not make sense in their order."""


def read_lesson(path: Path, page: str, places: Places) -> NotebookNode:
    """Return a lesson as a notebook of the site; raises LessonError, DeadLinkError or MissingTextError for one that is wrong."""
    notebook = plain_notebook(path)
    check_order(notebook.cells, page)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = adapt(cell.source, page, places)
    notebook.cells = folded(notebook.cells)
    _offer(notebook, path.stem)
    return notebook


def plain_notebook(path: Path) -> NotebookNode:
    """Return the notebook that people run themselves: nothing folded, links as they are."""
    notebook: NotebookNode = jupytext.read(path)
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": _LANGUAGE}
    return notebook


def check_order(cells: list[NotebookNode], page: str) -> None:
    """Raise LessonError unless each exercise is a starter, hints, a solution and a check, in this order."""
    last = "check"
    for cell in cells:
        step = next((tag for tag in _tags(cell) if tag in _STEPS), None)
        if step is None:
            continue
        allowed = {"starter": {"check"}, "hint": {"starter", "hint"}, "solution": {"starter", "hint", "solution"}, "check": {"solution"}}
        if last not in allowed[step]:
            raise LessonError(f"{page}: a {step} follows a {last}: an exercise is a starter, hints, a solution and a check")
        last = step
    if last != "check":
        raise LessonError(f"{page}: the last exercise ends with its {last}: it lacks a check")


def folded(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return cells with hints, solutions and the outcomes of predictions folded, and without the calls that only speak."""
    result: list[NotebookNode] = []
    for is_hint, group in itertools.groupby(cells, key=lambda cell: "hint" in _tags(cell)):
        several = list(group)
        for number, cell in enumerate(several, 1):
            title = f"Hint {number}" if is_hint and len(several) > 1 else None
            result.append(_folded_text(cell, title) if cell.cell_type == "markdown" else _folded_code(cell))
    return result


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


def _folded_text(cell: NotebookNode, title: str | None) -> NotebookNode:
    kind = next((tag for tag in _tags(cell) if tag in _TITLES), None)
    if kind is not None:
        fence = ":" * 7  # more than any that a text has inside
        cell.source = f"{fence}{{fold}} {title or _TITLES[kind]}\n:kind: {kind}\n\n{cell.source}\n{fence}"
    return cell


def _folded_code(cell: NotebookNode) -> NotebookNode:
    tags = _tags(cell)
    if "solution" in tags:
        _fold(cell, "hide-cell", _TITLES["solution"])
    elif "prediction" in tags:
        _fold(cell, "hide-output", _TITLES["prediction"])
    elif is_shown_alone(cell.source):
        _tag(cell, "remove-input")
    return cell


def _fold(cell: NotebookNode, how: str, title: str) -> None:
    _tag(cell, how)
    cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), "code_prompt_show": title, "code_prompt_hide": title}


def _tag(cell: NotebookNode, tag: str) -> None:
    cell.metadata["tags"] = [*_tags(cell), tag]


def _tags(cell: NotebookNode) -> list[Any]:
    return list(cell.metadata.get("tags", []))


def _offer(notebook: NotebookNode, name: str) -> None:
    """Say after the title where the lesson is to be had as files."""
    first = notebook.cells[0]
    title = title_of(first.source, "")
    if first.cell_type != "markdown" or not title:
        raise LessonError(f"course/{name}.py: the first cell is no text with a title, a line that begins with one #")
    head, _, rest = first.source.partition("\n")
    files = f"[the file itself](shown:course/{name}.py), {{download}}`a notebook </downloads/{name}.ipynb>`"
    offer = f":::{{container}} offer\nRun it yourself: {files}, or `python course/{name}.py`.\n:::"
    notebook.cells[:1] = [new_markdown_cell(f"{head}\n\n{offer}\n{rest}", metadata=first.metadata)]
