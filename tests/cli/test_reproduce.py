"""`cutaway reproduce`: lists, runs, goes on, and fails with the right words and codes."""

import json
from dataclasses import replace
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
    assert row["scales"]["paper"] == {"minutes": 9, "memory_gib": 1e6}


def test_lists_in_full_what_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list", "toy"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "toy A toy claim A number falls to nothing. source none scales small (about 6 s a seed, 1 GiB), paper" in shown
    assert "here not run yet" in shown
    assert not Path("runs").exists()


def test_runs_shows_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "toy", "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "passed on each of 2 seeds" in shown.out
    assert "seed 0: passed" in shown.err
    record = json.loads(Path("runs/experiments/toy/result.json").read_text())
    assert record["command"] == "cutaway reproduce toy --seeds 2"
    assert Path("runs/experiments/toy/report.html").is_file()


def test_result_holds_all_seeds_of_the_folder_and_read_ones_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "toy", "--seeds", "2"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "toy", "--seed", "5"]) == 0
    assert "read" not in capsys.readouterr().err
    record = json.loads(Path("runs/experiments/toy/result.json").read_text())
    assert list(record["seeds"]) == ["0", "1", "5"]
    assert record["command"] == "cutaway reproduce toy --seeds 0,1,5"
    assert Path("runs/experiments/toy/figures/loss-seed-1.svg").is_file()
    assert main(["reproduce", "toy", "--seed", "5"]) == 0
    shown = capsys.readouterr()
    assert "seed 5: passed after" in shown.err
    assert "read: it was finished before" in shown.err
    assert "(read, not run)" in shown.out


def test_what_changed_code_found_is_outdated(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["reproduce", "toy", "--seeds", "2"]) == 0
    monkeypatch.setattr("cutaway.experiments.frame.sources_sha256", lambda _: "changed")
    monkeypatch.setattr("cutaway.experiments.frame.reproducing.sources_sha256", lambda _: "changed")
    capsys.readouterr()
    assert main(["reproduce", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["found"] == "outdated"
    toy.TRAINED.clear()
    assert main(["reproduce", "toy", "--seed", "1"]) == 0
    assert toy.TRAINED == []
    said = " ".join(capsys.readouterr().err.split())
    assert "measured anew: the code has changed" in said
    assert "left out, as the code has changed since: seed 0" in said
    assert list(json.loads(Path("runs/experiments/toy/result.json").read_text())["seeds"]) == ["1"]


def test_everything_is_checked_before_the_first_trains(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = toy.TOY.scales["small"]
    other = replace(toy.TOY, id="other", scales={"small": replace(small, memory_gib=1e6), "reduced": small})
    known = {"toy": replace(toy.TOY, scales={"small": small, "paper": small}), "other": other}
    monkeypatch.setattr("cutaway.experiments.experiment", known.__getitem__)
    assert main(["reproduce", "toy", "other"]) == 2
    assert "other at scale small needs about 1000000.0 GiB" in capsys.readouterr().err
    assert main(["reproduce", "toy", "other", "--scale", "paper"]) == 2
    assert "scale of other is 'paper'; expected one of small" in (said := capsys.readouterr().err)
    assert "reduced" not in said
    known["other"] = replace(other, scales={"small": small})
    Path("runs/experiments/other").mkdir(parents=True)
    Path("runs/experiments/other/a.txt").write_text("a")
    assert main(["reproduce", "toy", "other"]) == 2
    assert "holds a.txt and is no reproduction" in capsys.readouterr().err
    assert toy.TRAINED == []
    assert not Path("runs/experiments/toy").exists()


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
        (["--seeds", "abc"], "seeds are 'abc'; expected how many, as 3, or which, as 0,4,7"),
        (["--seed", "0"], "no experiment is named to run"),
        (["--seeds", "2"], "no experiment is named to run: name one, as --list shows them, or give --all-fast"),
        (["toy", "--seeds", "4,5", "--seed", "9"], "give which seeds, or the first and how many"),
        (["toy", "--seeds", "4,5", "--seed", "0"], "give which seeds, or the first and how many"),
        (["toy", "--scale", "paper"], "needs about 1000000.0 GiB of memory"),
        (["toy", "--out", "letters"], "holds a.txt and is no reproduction"),
        (["--all-fast", "--scale", "paper"], "each of the fast experiments runs at its small scale"),
        (["--all-fast", "--list"], "it shows what there is and runs nothing"),
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
    ship(toy.TOY, tmp_path / "runs/experiments/toy", "toy-model", tmp_path / "package", seed=0, about="nothing")
    shipped.shipped_models.cache_clear()
    capsys.readouterr()
    try:
        for _ in range(2):
            toy.TRAINED.clear()
            assert main(["reproduce", "--verify-shipped"]) == 0
            assert toy.TRAINED == ["first model", "second"]
            assert "bit for bit the shipped weights" in " ".join(capsys.readouterr().out.split())
        assert main(["reproduce", "--verify-shipped", "toy-modle"]) == 2
        assert "no model 'toy-modle' comes with cutaway; did you mean 'toy-model'" in capsys.readouterr().err
    finally:
        shipped.shipped_models.cache_clear()
