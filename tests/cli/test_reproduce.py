"""`cutaway reproduce`: lists, runs, goes on, and fails with the right words and codes."""

import json
from pathlib import Path

import pytest

import toy_experiment as toy
from cutaway.assets import shipped
from cutaway.cli.main import main
from cutaway.experiments import registry
from cutaway.experiments.frame import ship


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy be the only experiment."""
    toy.TRAINED.clear()
    toy.STOPPED.clear()
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    monkeypatch.setattr("cutaway.experiments.NAMES", ("toy",))
    monkeypatch.setattr("cutaway.experiments.experiment", {"toy": toy.TOY}.__getitem__)


def test_lists_what_there_is_and_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    assert "A toy" in capsys.readouterr().out
    assert main(["reproduce", "toy"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "--list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["id"] == "toy"
    assert row["found"] == "passed"
    assert row["scales"] == ["small", "paper"]


def test_runs_shows_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "toy", "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "passed on each of 2 seeds" in shown.out
    assert "seed 0: passed" in shown.err
    record = json.loads(Path("runs/experiments/toy/result.json").read_text())
    assert record["command"] == "cutaway reproduce toy --seeds 2"
    assert Path("runs/experiments/toy/report.html").is_file()


def test_json_is_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "toy", "--json", "--out", "here"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["experiment"] == "toy"
    assert record["passed"] is True
    assert Path("here/result.json").is_file()


def test_a_failed_check_is_an_exit_code_and_says_by_how_much(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(toy.TOY.scales, "small", toy.Scale(config=toy.Config(bound=-1.0), minutes=0.1))  # type: ignore[arg-type]
    assert main(["reproduce", "toy"]) == 1
    assert "toy: distance is" in (said := capsys.readouterr().err)
    assert "missed by" in said


def test_ctrl_c_keeps_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    toy.STOPPED.add("second")
    assert main(["reproduce", "toy"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert Path("runs/experiments/toy/seed-0/first-model.safetensors").is_file()
    toy.STOPPED.clear()
    toy.TRAINED.clear()
    assert main(["reproduce", "toy"]) == 0
    assert toy.TRAINED == ["second"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy", "--seeds", "many"], "seeds are 'many'; expected how many, as 3, or which, as 0,4,7"),
        (["toy", "--scale", "paper"], "needs about 1000000.0 GiB of memory"),
        (["toy", "--out", "letters"], "holds a.txt and is no reproduction"),
        (["toy", "--list"], "it shows what there is and runs nothing"),
    ],
)
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("letters").mkdir()
    Path("letters/a.txt").write_text("a")
    assert main(["reproduce", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()


def test_an_unknown_name_shows_the_nearest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.experiments.experiment", registry.experiment)
    assert main(["reproduce", "tyo"]) == 2
    assert "there is no experiment 'tyo'; did you mean" in capsys.readouterr().err


def test_shipped_models_are_trained_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["reproduce", "toy"]) == 0
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "package")
    ship(tmp_path / "runs/experiments/toy", 0, "toy-model", tmp_path / "package", about="nothing")
    shipped.shipped_models.cache_clear()
    capsys.readouterr()
    try:
        assert main(["reproduce", "--verify-shipped"]) == 0
        assert "bit for bit the shipped weights" in " ".join(capsys.readouterr().out.split())
        assert main(["reproduce", "--verify-shipped", "toy-modle"]) == 2
        assert "no model 'toy-modle' comes with cutaway; did you mean 'toy-model'" in capsys.readouterr().err
    finally:
        shipped.shipped_models.cache_clear()
