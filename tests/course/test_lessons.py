"""Every lesson runs, its exercises' starters fail and their solutions pass, and its words keep what they promise."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import pytest
from course.__main__ import main, write_copy
from course.source import COURSE, Cell, Lesson, lessons, read, readers_copy

from prose import dead_links, unchecked_numbers, unknown_names

LESSONS = lessons()
SECTIONS = ("The idea", "The equation", "The code", "Predict", "Exercises", "Pitfalls", "Read on")

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])


def run(cell: Cell, lesson: Lesson, names: dict[str, Any]) -> str:
    """Run a cell and return what it printed; an error names the line of the lesson."""
    code = compile("\n" * cell.line + cell.text, str(lesson.path), "exec")
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


@each_lesson
def test_a_lesson_runs_and_its_exercises_tell_right_from_wrong(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # figures go to files there
    monkeypatch.delenv("CUTAWAY_COURSE", raising=False)
    plt.switch_backend("Agg")
    lesson = read(path)
    solutions = {exercise[-2]: exercise[-1] for exercise in lesson.exercises()}
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in lesson.cells:
        if not cell.is_code:
            continue
        if cell in solutions:
            outcome = run(solutions[cell], lesson, names)
            assert outcome.startswith("✗"), f"line {cell.line}: the starter passes its check: {outcome}"
        outcome = run(cell, lesson, names)
        if cell.tag == "check":
            assert re.fullmatch(r"✓ .+\n", outcome), f"line {cell.line}: the solution fails its check: {outcome}"
    plt.close("all")


@each_lesson
def test_a_lesson_has_all_its_parts(path: Path) -> None:
    lesson = read(path)
    prose = "\n".join(cell.text for cell in lesson.cells if not cell.is_code)
    code = "\n".join(cell.text for cell in lesson.cells if cell.is_code)
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    assert lesson.title
    assert lesson.question.endswith("?")
    assert "../src/cutaway/" in lesson.cells[0].text, "the first cell links to the source that the lesson explains"
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    assert "$$" in prose
    assert "show(" in code
    assert "figure(" in code
    assert any(cell.tag == "prediction" for cell in lesson.cells)
    assert len(list(lesson.exercises())) >= 3


@each_lesson
def test_what_a_lesson_says_is_so(path: Path) -> None:
    lesson = read(path)
    code = "\n".join(cell.text for cell in lesson.cells if cell.is_code)
    for cell in lesson.cells:
        if not cell.is_code:
            assert not unchecked_numbers(cell.text, code), f"line {cell.line}: no code has these numbers"
            assert not dead_links(cell.text, path.parent), f"line {cell.line}: links to nothing"
            assert not unknown_names(cell.text), f"line {cell.line}: names that the library has not"


@each_lesson
def test_a_readers_copy_has_no_solution(path: Path) -> None:
    lesson = read(path)
    copy = readers_copy(lesson)
    assert len(copy.cells) == len(lesson.cells) - len(list(lesson.exercises()))
    texts = {cell.source for cell in copy.cells}
    assert not [exercise for exercise in lesson.exercises() if exercise[-2].text in texts]
    hidden = [cell.source for cell in copy.cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert hidden == [cell.text for cell in lesson.cells if cell.tag == "prediction"]


@pytest.mark.parametrize("ending", ["ipynb", "py"])
def test_links_of_readers_copies_lead_somewhere(ending: str, tmp_path: Path) -> None:
    for path in LESSONS:
        write_copy(path, tmp_path, ending)
    copies = sorted(tmp_path.iterdir())
    assert len(copies) == len(LESSONS)
    for copy in copies:
        cells = jupytext.read(copy).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert "](" in prose
        assert not dead_links(prose, tmp_path), copy.name


def test_a_copy_to_take_away_links_to_copies_alone() -> None:
    for path in LESSONS:
        cells = readers_copy(read(path), folder=None).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        relative = set(re.findall(r"\]\(((?![a-z]+:)[^)#\s]+)\)", prose))
        assert relative <= {f"{lesson.stem}.ipynb" for lesson in LESSONS}
        assert "(`src/cutaway/" in prose


def test_hints_stand_behind_the_check_in_plain_python() -> None:
    tags = [cell.metadata.get("tags") for cell in readers_copy(read(LESSONS[0]), ending="py").cells]
    first = tags.index(["starter"])
    assert tags[first : first + 3] == [["starter"], ["check"], ["hint"]]
    assert tags.count(["hint"]) == sum(cell.tag == "hint" for cell in read(LESSONS[0]).cells)


@pytest.mark.parametrize("number", ["0", "18", "three"])
def test_a_lesson_that_is_not_there_is_named(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["course", "start", number])
    with pytest.raises(SystemExit):
        main()
    assert f"there is no lesson '{number}'" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    monkeypatch.setattr("sys.argv", ["course", "start", "1", "--to", str(tmp_path / "mine")])
    assert main() == 2
    assert " ".join(capsys.readouterr().err.split()).endswith("mine: file exists")


def test_without_jupytext_one_sentence_says_what_brings_it() -> None:
    without = "import runpy, sys; sys.modules['jupytext'] = None; runpy.run_module('course', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", without], cwd=COURSE.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"lessons are read with jupytext, which is not installed: .*make course\n", done.stderr)


def test_lessons_are_numbered_from_one() -> None:
    assert [read(path).number for path in LESSONS] == list(range(1, len(LESSONS) + 1))


def lesson_of(tmp_path: Path, *cells: str) -> Lesson:
    path = tmp_path / "01_trial.py"
    path.write_text("\n\n".join(cells), encoding="utf-8")
    return read(path)


def test_an_exercise_out_of_order_is_refused(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, '# %% tags=["starter"]\nx = ...', '# %% tags=["check"]\nassert x')
    with pytest.raises(ValueError, match=r"01_trial.py, line 4: an exercise is starter, check"):
        list(lesson.exercises())
    lesson = lesson_of(tmp_path, '# %% tags=["starter"]\nx = ...', "# %%\nprint()")
    with pytest.raises(ValueError, match="line 4: an exercise is not at its end here"):
        list(lesson.exercises())


def test_an_unknown_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: the tags are .'stater'.; expected one of starter"):
        lesson_of(tmp_path, '# %% tags=["stater"]\nx = ...')
