"""What a person sees of what was watched."""

import json
from pathlib import Path

import pytest

from cutaway.runs import Run
from cutaway.watching.families import FAMILIES
from run_directories import make_watched_run
from tiny_training import OPTIONS, write_text


@pytest.fixture
def phase(tmp_path):
    return make_watched_run(tmp_path / "runs" / "phase")


def test_inspect_draws_what_was_watched(phase, cutaway, tmp_path):
    code, out, err = cutaway("inspect", "phase", "--report", "page.html")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "induction: L1H1 rose from 0.05 to 0.81 between steps 600 and 1,000." in lines
    assert "induction, mean attention" in lines
    assert any(line.rstrip().endswith("L1H1 0.810") for line in lines)
    assert lines[-1] == "The report is in page.html."
    assert max(map(len, lines)) <= 80
    page = (tmp_path / "page.html").read_text()
    assert "induction: L1H1 rose from 0.05 to 0.81 between steps 600 and 1,000." in page
    assert page.count("<svg") == 1
    for written in ("L1H1: 0.81", "nats a token", "Checkpoints", "previous_token"):
        assert written in page
    found = json.loads(cutaway("inspect", "phase", "--json")[1])["runs"][0]["watched"]
    assert [family["name"] for family in found] == ["induction", "previous_token", "icl", "mine"]


def test_a_page_is_of_one_run_that_has_begun(phase, cutaway, tmp_path):
    assert "--report is 'page.txt'; expected a file that ends in .html" in cutaway("inspect", "phase", "--report", "page.txt")[2]
    assert "there is no folder" in cutaway("inspect", "phase", "--report", "nowhere/page.html")[2]
    assert "--report shows one run: name one run alone" in cutaway("inspect", "phase", "phase", "--report", "page.html")[2]
    assert "--report shows one run: name one run alone" in cutaway("inspect", "smollm2-135m", "--report", "page.html")[2]
    (phase / "metrics.jsonl").write_text("")
    code, _, err = cutaway("inspect", "phase", "--report", "page.html")
    assert code == 2
    assert "has logged nothing yet" in err
    assert not (tmp_path / "page.html").exists()


def test_the_command_takes_names_one_by_one_or_with_commas(cutaway, tmp_path):
    write_text(tmp_path)
    given = ("--watch", "induction, icl", "--watch", "norms", "--watch-every", "6")
    code, out, err = cutaway("train", "--data", "play.txt", *OPTIONS, *given)
    assert code == 0
    beside = [line for line in err.splitlines() if line.startswith("  induction L0H")]
    assert len(beside) == 2, "steps 0 and 12 are validated and watched"
    assert all(" icl " in line for line in beside)
    assert "\ninduction: no head rose by 0.1; the highest is L0H" in f"\n{out}"
    run = Run(tmp_path / "runs/play")
    assert (run.recipe["watch"], run.recipe["watch_every"]) == (["induction", "icl", "norms"], 6)
    assert run.metrics().curve("icl.score")[0] == [0, 6, 12]
    code, _, err = cutaway("train", "--data", "play.txt", *OPTIONS, "--watch", "induction,ilc", "--out", "other")
    assert code == 2
    assert "there is no observer 'ilc'; did you mean 'icl'? there are induction, " in err
    assert not Path("other").exists()


def test_help_names_everything_that_can_be_watched(cutaway):
    shown = " ".join(cutaway("train", "--help")[1].split())
    assert all(name in shown for name in FAMILIES)
