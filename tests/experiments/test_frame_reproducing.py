"""Seeds run once each, go on where they were stopped, and are judged together."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway.experiments.frame import Recipe, Reproduction, Trial, check_memory, parse_seeds, reproduce
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
    with pytest.raises(ValueError, match=r"is damaged .* remove it, and its seed runs again"):
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


@pytest.mark.parametrize(
    ("text", "first", "seeds"), [("3", 0, [0, 1, 2]), ("2", 5, [5, 6]), ("0,4,7", 0, [0, 4, 7]), ("1, 1,2", 0, [1, 2])]
)
def test_seeds_are_read(text: str, first: int, seeds: list[int]) -> None:
    assert parse_seeds(text, first=first) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "three", "1,x", "1.5", "1,,2", "4,"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds are"):
        parse_seeds(text)


def test_many_seeds_are_shown_by_median_and_range() -> None:
    header, rows = reproduce(TOY, seeds=range(4)).table()
    assert list(header) == ["", "check", "expected", "median", "range", "null"]
    assert rows[0][0] == "ok"
    assert isinstance(reproduce(TOY), Reproduction)
