"""What lessons are made of: source that is shown or refused, and checks that tell right from wrong in a sentence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway import lesson, plots
from cutaway.hooks import Hooks
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Attention, attend
from cutaway.training.step import TrainStep

LESSON = """# %% [markdown]
# # A lesson

# %%
from cutaway.lesson import say


def twice(text):
    say(text)


say("first")

# %% [markdown]
# ## The idea

# %%
twice("second")
# ### no heading of its own
say("third")
"""


def test_source_is_shown_without_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    show(attend)
    shown = capsys.readouterr().out
    assert "cutaway.model.attention.attend: src/cutaway/model/attention.py, line " in shown
    assert "scores = q @ k.mT / math.sqrt(q.shape[-1])" in shown
    assert "Vaswani" not in shown


def test_a_part_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(Attention.forward, start="q = hooks", stop="k = hooks")
    first, *code = capsys.readouterr().out.splitlines()
    assert first.startswith("cutaway.model.attention.Attention.forward: ")
    assert code[0].startswith("q = hooks(")
    assert [line[:4] for line in code if " = hooks(" in line] == ["q = ", "k = "]


def test_a_notebook_shows_underscores_of_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(lesson, "_in_notebook", lambda: True)
    monkeypatch.setattr(lesson, "_display_markdown", shown.append)
    show(Hooks.__call__)
    code, place = shown[0].split("\n```\n")
    assert code.startswith("```python\ndef __call__(")
    assert r"Hooks.\_\_call\_\_: src/cutaway/hooks.py" in place


@pytest.mark.parametrize("ends", [{"start": "no such line"}, {"start": "q = hooks", "stop": "def forward"}])
def test_code_that_is_gone_is_refused(ends: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"cutaway.model.attention.Attention.forward has no line with '(no such line|def forward)'"
    ):
        show(Attention.forward, **ends)


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (..., 3, "x: nothing is returned yet"),
        (None, "a", "x: nothing is returned yet"),
        (2, 3, "x: expected 3, got 2"),
        ("b", "a", "x: expected 'a', got 'b'"),
        ("b", 3, "x: expected 3, got 'b'"),
        (torch.zeros(2), torch.zeros(3), "x: expected the shape (3,), got (2,)"),
        (torch.tensor([[1.0, 2.0], [3.0, 5.0]]), [[1, 2], [3, 4]], "x: expected 4 at [1, 1], got 5.0"),
        ([True, False], [True, True], "x: expected True at [1], got False"),
        (float("nan"), 1.0, "x: expected 1.0, got nan"),
        (("a", "b"), ["a", "c"], "x: expected ['a', 'c'], got ('a', 'b')"),
    ],
)
def test_what_is_wrong_is_said(actual: object, expected: object, message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        expect(actual, expected, "x")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0, 1),
        (1.0, np.float32(1)),
        (torch.ones(2, requires_grad=True), [1, 1]),
        ([1, 2], torch.tensor([1, 2])),
        ("a", "a"),
        (["a", 1], ["a", 1]),
        ([["a", "b"], 2], (("a", "b"), 2)),
        (torch.ones(2, dtype=torch.bfloat16), [1, 1]),
    ],
)
def test_what_is_right_passes(actual: object, expected: object) -> None:
    expect(actual, expected, "x")


def test_tolerance_is_kept() -> None:
    expect(1.0001, 1.0, "x", tolerance=1e-3)
    with pytest.raises(AssertionError):
        expect(1.0001, 1.0, "x")


def test_a_check_says_in_one_line_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    with checking("fine"):
        expect(1, 1, "one")
    with checking("broken"):
        torch.zeros(2) @ torch.zeros(3)
    fine, broken, *_ = capsys.readouterr().out.splitlines()
    assert fine == "✓ fine"
    assert broken.startswith("✗ broken: RuntimeError: ")


def test_an_exercise_that_is_not_begun_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    for unwritten in (..., None):
        exec('with checking("unwritten"):\n    unwritten.dtype', {"checking": checking, "unwritten": unwritten})
    assert capsys.readouterr().out.splitlines() == 2 * ["✗ unwritten: nothing is returned yet"]


def test_what_a_lesson_prints_stands_under_its_headings(tmp_path: Path) -> None:
    (tmp_path / "lesson.py").write_text(LESSON)
    done = subprocess.run([sys.executable, "lesson.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    printed = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert printed == ["A lesson", "first", "The idea", "second", "third"]


def test_an_error_in_the_readers_function_is_placed(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(x: object) -> torch.Tensor:
        return torch.as_tensor(x) @ torch.ones(7)

    with checking("placed"):
        wrong(torch.ones(3))
    with checking("in a library"):
        wrong("abc")
    placed, in_library = capsys.readouterr().out.splitlines()
    assert placed.startswith("✗ placed: RuntimeError: ")
    assert placed.endswith(": return torch.as_tensor(x) @ torch.ones(7))")
    assert "(in wrong, line " in placed
    assert "(in wrong, line " in in_library


def test_figures_with_like_captions_are_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for end in ("first", "second"):
        figure(
            plots.bars([1.0], labels=["a"], title="a", label="a"),
            f"the same words over and over so that twelve are not enough, {end}",
        )
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_a_figure_of_a_notebook_is_as_wide_as_its_smallest_text_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display", reason="make course installs what notebooks need")
    shown: list[str] = []
    monkeypatch.setattr(lesson, "_in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", lambda each: shown.append(each.data))
    drawn = plots.attention(np.ones((1, 4, 4)), tokens=list("abcd"), titles=["a head"], title="A pattern")  # tokens of 7 points
    figure(drawn, "A pattern")
    width = int(shown[0].split('width="')[1].split('"')[0])
    assert width / (72 * drawn.get_figwidth()) * 7 == pytest.approx(11, abs=0.05)


def test_a_cut_that_begins_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot be shown from 'losses = .': a later line is less indented"):
        show(TrainStep.__call__, start="losses = [", stop="optimizer.zero_grad")


def test_sizes_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUTAWAY_COURSE", raising=False)
    assert pick(fast=1, full=2) == 1
    monkeypatch.setenv("CUTAWAY_COURSE", "full")
    assert pick(fast=1, full=2) == 2
    monkeypatch.setenv("CUTAWAY_COURSE", "slow")
    with pytest.raises(ValueError, match="CUTAWAY_COURSE is 'slow'; expected fast or full"):
        pick(fast=1, full=2)


def test_formulas_keep_their_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    say("The sum $x_1 + x_2$ of *both*.")
    assert capsys.readouterr().out.strip() == "The sum $x_1 + x_2$ of both."
