"""How far a count is, where nobody is watching."""

from cutaway.report import counting
from cutaway.report.counting import count_progress, step_progress


def test_a_pipe_is_told_once_how_long_is_left(capsys, monkeypatch):
    now = iter([0.0, 1.0, 12.0, 30.0, 0.0, 20.0])
    monkeypatch.setattr(counting.time, "monotonic", lambda: next(now))
    with count_progress("edges tried") as progress:
        for n_done in (1, 4, 10):
            progress(n_done, 16)
    with step_progress() as steps:
        steps(1, 2, "9 latents")
    assert capsys.readouterr().err.splitlines() == ["edges tried: 4 of 16, about 36.0 s left", "steps: 1 of 2, about 20.0 s left"]


def test_what_is_quick_is_not_said(capsys):
    with count_progress("runs") as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""


def test_a_new_count_has_its_own_time(capsys, monkeypatch):
    now = iter([0.0, 5.0, 9.0, 60.0, 61.0, 75.0])
    monkeypatch.setattr(counting.time, "monotonic", lambda: next(now))
    with count_progress("steps") as progress:
        for n_done in (1, 9, 1, 5):  # the third call asks twice what time it is
            progress(n_done, 10)
    assert capsys.readouterr().err == "steps: 5 of 10, about 15.0 s left\n"
