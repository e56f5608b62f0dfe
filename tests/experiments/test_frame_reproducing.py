"""Seeds run once each, go on where they were stopped, and are judged together."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway import experiments
from cutaway.experiments import frame
from cutaway.experiments.frame import (
    Check,
    Experiment,
    Outcome,
    Recipe,
    Reproduction,
    Trial,
    check_memory,
    finished_seeds,
    parse_seeds,
    reproduce,
    sources_sha256,
)
from toy_experiment import STOPPED, TOY, TRAINED, Config, Scalar


@pytest.fixture(autouse=True)
def _fresh():
    TRAINED.clear()
    STOPPED.clear()


def test_seeds_differ_and_are_repeatable(tmp_path: Path) -> None:
    result = reproduce(TOY, seeds=(0, 1))
    again = reproduce(TOY, seeds=(1,), folder=tmp_path / "one")
    starts = [outcome.numbers["start"] for outcome in result.outcomes.values()]
    assert starts[0] != starts[1]
    assert again.outcomes[1].numbers["start"] == starts[1]
    assert again.outcomes[1].checks == result.outcomes[1].checks


def test_finished_seeds_are_read_not_run(tmp_path: Path) -> None:
    first = reproduce(TOY, seeds=(0,), folder=tmp_path)
    TRAINED.clear()
    both = reproduce(TOY, seeds=(0, 1), folder=tmp_path)
    assert TRAINED == ["first model", "second"]  # seed 1's
    assert both.outcomes[0].checks == first.outcomes[0].checks
    torch.testing.assert_close(both.outcomes[0].arrays["loss"], first.outcomes[0].arrays["loss"], rtol=0, atol=0)


def of_other_code(folder: Path, seed: int, **changed: object) -> None:
    """Let a seed's result be what code that has changed since made."""
    file = folder / f"seed-{seed}" / "result.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"made_with": record["made_with"] | {"sources": "other"}} | changed))


def test_what_other_code_finished_is_measured_anew_on_its_weights(tmp_path: Path) -> None:
    first = reproduce(TOY, folder=tmp_path)
    check = first.outcomes[0].checks[0].to_dict()
    of_other_code(tmp_path, 0, checks=[check | {"value": 0.0, "at_most": 9.0}])
    TRAINED.clear()
    again, read = reproduce(TOY, folder=tmp_path), reproduce(TOY, folder=tmp_path)
    assert TRAINED == []
    assert again.outcomes[0].checks == first.outcomes[0].checks == read.outcomes[0].checks
    assert [each.finished[0].origin for each in (first, again, read)] == ["run", "measured anew", "read"]
    assert again.finished[0].made_with["sources"] == sources_sha256(TOY)


def test_the_hash_is_of_the_experiment_and_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = tmp_path / "experiments", tmp_path / "mine.py"
    (package / "frame").mkdir(parents=True)
    (package / "nouns").mkdir()
    files = {
        name: package / name
        for name in (
            "a.py",
            "b.py",
            "other.py",
            "frame/check.py",
            "nouns/__init__.py",
            "nouns/c.py",
            "frame/learning.py",
            "frame/trial.py",
        )
    }
    for file in files.values():
        file.write_text("")
    files["a.py"].write_text("def f():\n    import cutaway.experiments.b\n    from cutaway.experiments.nouns import c, word\n")
    module.write_text("from cutaway.experiments.a import f\nfrom cutaway.experiments.frame.check import Check\nimport torch\n")
    monkeypatch.setattr("cutaway.experiments.frame.sources._PACKAGE", package)
    monkeypatch.setattr(sys.modules["toy_experiment"], "__file__", str(module))
    known = sources_sha256(TOY)
    for name, matters in [
        ("other.py", False),
        ("frame/check.py", False),
        *((name, True) for name in list(files)[:2] + list(files)[4:]),
    ]:
        before = files[name].read_text()
        files[name].write_text(before + "x = 1\n")
        assert (sources_sha256(TOY) != known) is matters, name
        files[name].write_text(before)
    module.write_text(module.read_text() + "BOUND = 2\n")
    assert sources_sha256(TOY) != known


def test_an_experiment_without_a_file_is_never_taken_as_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["toy_experiment"], "__file__")
    assert sources_sha256(TOY) is None
    assert reproduce(TOY, folder=tmp_path).finished[0].origin == "run"
    assert reproduce(TOY, folder=tmp_path).finished[0].origin == "measured anew"


def test_all_finished_seeds_of_a_folder_are_found(tmp_path: Path) -> None:
    for seeds in ((4, 0), (2,)):
        reproduce(TOY, seeds=seeds, folder=tmp_path)
    whole, outdated = finished_seeds(TOY, tmp_path)
    assert list(whole.finished) == [0, 2, 4]
    assert outdated == []
    of_other_code(tmp_path, 2)
    whole, outdated = finished_seeds(TOY, tmp_path)
    assert list(whole.finished) == [0, 4]
    assert outdated == [2]


def test_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there are no seeds to run toy on; expected at least one"):
        reproduce(TOY, seeds=(), folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_record_says_which_code_trained_and_by_which_recipe(tmp_path: Path) -> None:
    now = sources_sha256(TOY)
    first = reproduce(TOY, folder=tmp_path).finished[0]
    assert first.trainings["second"]["sources"] == now
    assert first.trainings["second"]["recipe"]["learning_rate"] == 0.2
    assert not first.has_older_weights
    other = replace(TOY, run=replaced_run)  # other code, which takes over what is there
    again = reproduce(other, folder=tmp_path).finished[0]
    assert again.origin == "measured anew"
    assert again.made_with["sources"] != now
    assert again.trainings["second"]["sources"] == now
    assert again.has_older_weights


def replaced_run(config: Config, trial: Trial) -> Outcome:
    return TOY.run(config, trial)


def test_a_number_that_a_seed_lacks_is_not_a_number(tmp_path: Path) -> None:
    def run(config: Config, trial: Trial) -> Outcome:
        check = Check(name="seed", value=trial.seed, at_least=0, null=-1 - trial.seed, null_of="negative")
        return Outcome(checks=(check,), numbers={"rise": 3.0, "fall": 1.0} if trial.seed == 1 else {"fall": 2.0})

    result = reproduce(replace(TOY, run=run, draw=lambda _: {}, captions={}), seeds=(0, 1))
    numbers = result.to_dict()["numbers"]
    assert numbers["rise"] == {"values": [None, 3.0], "median": None, "least": None, "most": None}
    assert numbers["fall"]["values"] == [2.0, 1.0]
    (check,) = result.to_dict()["checks"]
    assert (check["at_least"], check["at_most"], check["null_passes"]) == (0, None, [False, False])
    assert check["nearest_null"] == -1
    assert result.table()[1][0][-1] == "-1 (negative)"


def test_numbers_that_are_not_finite_are_written_and_read(tmp_path: Path) -> None:
    def run(config: Config, trial: Trial) -> Outcome:
        check = Check(name="ratio", value=math.inf, at_least=2, null=math.nan, null_of="nothing")
        return Outcome(checks=(check,), numbers={"least": -math.inf, "none": math.nan, "one": 1.0})

    infinite: Experiment[Config] = replace(TOY, run=run, draw=lambda _: {}, captions={})
    for origin in ("run", "read"):
        result = reproduce(infinite, folder=tmp_path)
        assert result.finished[0].origin == origin
        outcome = result.outcomes[0]
        assert outcome.passed
        assert outcome.checks[0].value == math.inf
        assert math.isnan(outcome.checks[0].null)
        assert outcome.numbers["least"] == -math.inf
        assert math.isnan(outcome.numbers["none"])
        result.write(tmp_path)
        record = json.loads((tmp_path / "result.json").read_text())
        assert record["checks"][0]["values"] == [None]
        assert record["numbers"]["none"] == {"values": [None], "median": None, "least": None, "most": None}


def test_time_holds_the_training_that_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame.learning._Clock, "since_saved_s", 20.0)  # too soon for a file between
    assert reproduce(TOY, folder=tmp_path).finished[0].time_s < 20  # what the clock on the wall says
    of_other_code(tmp_path, 0)
    assert 40 <= reproduce(TOY, folder=tmp_path).finished[0].time_s < 60  # of two models


def test_a_stopped_seed_keeps_what_it_trained(tmp_path: Path) -> None:
    whole = reproduce(TOY, folder=tmp_path / "whole")
    STOPPED.add("second")
    with pytest.raises(KeyboardInterrupt):
        reproduce(TOY, folder=tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "seed-0" / "result.json").exists()
    STOPPED.clear()
    TRAINED.clear()
    result = reproduce(TOY, folder=tmp_path / "stopped")
    assert TRAINED == ["second"]
    assert result.outcomes[0].checks == whole.outcomes[0].checks
    torch.testing.assert_close(result.outcomes[0].arrays["loss"], whole.outcomes[0].arrays["loss"], rtol=0, atol=0)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    trial = Trial(seed=0, folder=tmp_path)
    model = Scalar(1.0)
    trial.learn("model", model, lambda _: model.x**2, Recipe(n_steps=2, learning_rate=0.1))
    with pytest.raises(ValueError, match="holds the weights of another model"):
        trial.learn("model", nn.Linear(2, 2), lambda _: torch.tensor(0.0), Recipe(n_steps=2, learning_rate=0.1))


def test_a_claim_that_fails_says_where_and_by_how_much() -> None:
    result = reproduce(TOY, seeds=(0, 1), config=Config(bound=-1.0))
    assert not result.passed
    failures = list(result.failures())
    assert len(failures) == 2
    assert "distance is" in failures[0]
    assert "on seed 0; expected at most -1, missed by" in failures[0]
    assert "FAILED" in result.summary()


def test_what_is_written(tmp_path: Path) -> None:
    result = reproduce(TOY, seeds=(3, 4), folder=tmp_path)
    page = result.write(tmp_path, command="cutaway reproduce toy")
    record = json.loads((tmp_path / "result.json").read_text())
    values = [outcome.checks[0].value for outcome in result.outcomes.values()]
    assert record["passed"] is True
    assert record["checks"][0]["values"] == values
    assert record["checks"][0]["median"] == pytest.approx(sum(values) / 2)
    assert record["checks"][0]["nulls"][0] >= 1
    assert set(record["seeds"]) == {"3", "4"}
    assert record["seeds"]["3"]["made_with"]["torch"] == torch.__version__
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "loss-seed-3.png", "loss-seed-3.svg", "loss-seed-4.png", "loss-seed-4.svg",
    ]  # fmt: skip
    assert "A number falls to nothing." in page.read_text()
    assert "untrained" in page.read_text()
    assert "The first number falls to nothing. (Seed 3.)" in page.read_text()


def test_figures_have_captions(tmp_path: Path) -> None:
    outcome = reproduce(TOY).outcomes[0]
    assert list(TOY.figures(outcome)) == ["Loss"]
    with pytest.raises(ValueError, match=r"draws \['Loss'\] and has captions for \['Loss', 'Other'\]"):
        replace(TOY, captions={**TOY.captions, "Other": ""}).figures(outcome)
    assert all(experiments.experiment(name).captions for name in experiments.NAMES)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    reproduce(TOY, folder=tmp_path / "toy")
    with pytest.raises(ValueError, match=r"holds toy at other settings \(n_steps 30, not 31\)"):
        reproduce(TOY, config=Config(n_steps=31), folder=tmp_path / "toy")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"holds a.txt and is no reproduction"):
        reproduce(TOY, folder=tmp_path / "letters")
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        reproduce(TOY, folder=tmp_path / "letters" / "a.txt")


def test_a_damaged_seed_says_so(tmp_path: Path) -> None:
    reproduce(TOY, folder=tmp_path)
    (tmp_path / "seed-0" / "arrays.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is damaged: remove its result.json to measure anew, or all of it to train anew"):
        reproduce(TOY, folder=tmp_path)


def test_a_configuration_of_another_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="config is a dict; toy is configured by a"):
        reproduce(TOY, config={"n_steps": 3})


def test_memory_is_said_beforehand() -> None:
    check_memory(TOY, "small")
    with pytest.raises(ValueError, match=r"toy at scale paper needs about 1000000.0 GiB of memory and .* GiB are free"):
        check_memory(TOY, "paper")
    with pytest.raises(ValueError, match="scale of toy is 'huge'; expected one of small, paper"):
        check_memory(TOY, "huge")


def test_the_scale_of_the_tests_is_not_offered() -> None:
    small = TOY.scales["small"]
    tested = replace(TOY, scales={"small": small, "reduced": small})
    with pytest.raises(ValueError, match=r"scale of toy is 'paper'; expected one of small$"):
        tested.scale("paper")
    assert tested.scale("reduced") is small


@pytest.mark.parametrize(
    ("text", "first", "seeds"), [("3", 0, [0, 1, 2]), ("2", 5, [5, 6]), ("0,4,7", None, [0, 4, 7]), ("1, 2", None, [1, 2])]
)
def test_seeds_are_read(text: str, first: int | None, seeds: list[int]) -> None:
    assert parse_seeds(text, first=first) == seeds


def test_a_first_seed_beside_named_ones_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds are '4,5' and the first seed is 9: give which seeds, or the first and how many"):
        parse_seeds("4,5", first=9)
    with pytest.raises(ValueError, match="the first seed is -1; expected a whole number of at least 0"):
        parse_seeds("2", first=-1)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "three", "1,x", "1.5", "1,,2", "4,", "1, 1,2", "1001", "9" * 5000, "0," + "9" * 30]
)
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds are"):
        parse_seeds(text)


def test_many_seeds_are_shown_by_median_and_range() -> None:
    header, rows = reproduce(TOY, seeds=range(4)).table()
    assert list(header) == ["", "check", "expected", "median", "range", "null"]
    assert rows[0][0] == "ok"
    assert isinstance(reproduce(TOY), Reproduction)
