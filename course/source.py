"""A lesson's source taken apart: a py:percent file of cells, of which some belong to exercises.

Cells are tagged `starter`, `hint`, `solution` and `check`, in this order, once an exercise (hints may be several), and `prediction`
where the reader is to guess the outcome first. One source gives the notebook that a reader works in, without the solutions, and the
pages of the site, with the solutions folded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat

__all__ = ["KERNEL", "Cell", "Lesson", "lessons", "read", "readers_copy"]

COURSE = Path(__file__).parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
EXERCISE_TAGS = ("starter", "hint", "solution", "check")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: its text, whether it is code, and its tag, if it has one."""

    text: str
    is_code: bool
    tag: str | None
    line: int


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A lesson: its file and its cells. Its title and its question are the beginning of its first cell."""

    path: Path
    cells: tuple[Cell, ...]

    @property
    def number(self) -> int:
        return int(self.path.name.split("_")[0])

    @property
    def title(self) -> str:
        return self.cells[0].text.splitlines()[0].removeprefix("# ")

    @property
    def question(self) -> str:
        """The sentence in bold under the title."""
        found = re.search(r"\*\*(.+?)\*\*", self.cells[0].text, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    def exercises(self) -> Iterator[tuple[Cell, ...]]:
        """Yield the cells of each exercise. Raises ValueError where they are not a starter, hints, a solution and a check, in a row."""
        group: list[Cell] = []
        for cell in self.cells:
            if cell.tag in EXERCISE_TAGS:
                group.append(cell)
            elif group:
                raise ValueError(f"{self.path.name}, line {cell.line}: an exercise is not at its end here")
            if cell.tag == "check":
                tags = [each.tag for each in group]
                if tags != ["starter", *["hint"] * (len(group) - 3), "solution", "check"] or len(group) < 4:
                    raise ValueError(f"{self.path.name}, line {cell.line}: an exercise is {', '.join(map(str, tags))}")
                yield tuple(group)
                group = []
        if group:
            raise ValueError(f"{self.path.name}: the last exercise has no check")


def lessons() -> list[Path]:
    """Return the sources of all lessons, in their order."""
    return sorted(COURSE.glob("[0-9][0-9]_*.py"))


def read(path: Path) -> Lesson:
    """Return the lesson of a source. Raises ValueError for a tag that is not known."""
    source = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(source, fmt="py:percent")
    starts = [number for number, line in enumerate(source.splitlines(), start=1) if line.startswith("# %%")]
    cells = []
    for cell, line in zip(notebook.cells, starts, strict=True):
        tags = cell.metadata.get("tags", [])
        if len(tags) > 1 or not set(tags) <= {*EXERCISE_TAGS, "prediction"}:
            raise ValueError(
                f"{path.name}, line {line}: the tags are {tags}; expected one of {', '.join(EXERCISE_TAGS)}, prediction"
            )
        cells.append(Cell(text=cell.source, is_code=cell.cell_type == "code", tag=tags[0] if tags else None, line=line))
    return Lesson(path=path, cells=tuple(cells))


def readers_copy(lesson: Lesson, *, folder: Path | None = COURSE, ending: str = "ipynb") -> nbformat.NotebookNode:
    """Return the notebook that a reader works in, without solutions: links lead on from `folder`, and to copies of that ending.

    A copy for no folder, which is taken away from the repository, says the paths of what links led to there.
    Hints are folded, and so is the code of a prediction, which tells the outcome; in plain Python, where nothing folds, hints stand
    behind the check.
    """
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    for cell in lesson.cells if ending == "ipynb" else _hints_last(lesson.cells):
        if cell.tag == "solution":
            continue
        text = cell.text if cell.is_code else _moved(cell.text, folder, ending)
        if cell.tag == "hint":
            text = f"<details><summary>Hint</summary>\n\n{text}\n\n</details>" if ending == "ipynb" else f"Hint: {text}"
        make = nbformat.v4.new_code_cell if cell.is_code else nbformat.v4.new_markdown_cell
        notebook.cells.append(make(text, metadata={"tags": [cell.tag]} if cell.tag else {}))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same copy each time
        if cell.metadata.get("tags") == ["prediction"]:
            cell.metadata["jupyter"] = {"source_hidden": True}  # it has the outcome in words
    return notebook


def _hints_last(cells: Sequence[Cell]) -> Iterator[Cell]:
    hints: list[Cell] = []
    for cell in cells:
        if cell.tag == "hint":
            hints.append(cell)
            continue
        yield cell
        if cell.tag == "check":
            yield from hints
            hints = []


def _moved(text: str, folder: Path | None, ending: str) -> str:
    """Return Markdown whose relative links lead from `folder` where they led from the lessons; those to lessons lead to copies."""
    if folder and folder.resolve() == COURSE.resolve():
        return text

    def link(found: re.Match[str]) -> str:
        path = (COURSE / found[2]).resolve()
        if path.parent == COURSE.resolve():
            return f"[{found[1]}]({path.stem}.{ending})"
        if folder is None:
            return f"{found[1]} (`{path.relative_to(COURSE.parent.resolve()).as_posix()}`)"
        return f"[{found[1]}]({Path(os.path.relpath(path, folder.resolve())).as_posix()})"

    return re.sub(r"\[([^][]*)\]\(((?![a-z]+:)[^)#\s]+)\)", link, text)
