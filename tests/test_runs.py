import json
import os
import shutil

import pytest

from cutaway.config import ModelConfig
from cutaway.runs import (
    Checkpoint,
    Run,
    latest_run,
    list_runs,
    read_metrics,
    runs_root,
    values_sha256,
)
from cutaway.runtime import file_sha256
from run_directories import TRAIN, make_run, record


def test_a_run_gives_back_what_was_written(tmp_path):
    run = Run(make_run(tmp_path / "tiny"))
    assert run.name == "tiny"
    assert run.model_config == ModelConfig(d_vocab=11, n_ctx=8, n_layers=2, n_heads=2, d_model=8)
    assert run.recipe == TRAIN
    assert run.manifest["device"] == "CPU, 2 threads"
    assert run.metrics().records == tuple(record(step) for step in range(5, 101, 5))
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [50, 100]
    assert run.latest_checkpoint().path == tmp_path / "tiny/checkpoints/step-000100"


def test_a_curve_holds_the_steps_where_the_number_was_logged(tmp_path):
    metrics = Run(make_run(tmp_path / "tiny")).metrics()
    assert metrics.curve("val_loss")[0] == [25, 50, 75, 100]
    assert metrics.curve("val_loss")[1] == [record(step)["val_loss"] for step in (25, 50, 75, 100)]
    assert metrics.curve("accuracy") == ([], [])
    assert metrics.last("val_loss") == record(100)["val_loss"]
    assert metrics.last("accuracy") is None


@pytest.mark.parametrize("tail", ['{"step": 105, "lo', "\0\0\0\0", '{"loss": 2.0}', "[1, 2]", '{"step": 105, "loss": 1.1}{"st'])
def test_a_damaged_last_line_is_left_out_and_noted(tmp_path, tail):
    run = Run(make_run(tmp_path / "tiny"))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    metrics = run.metrics()
    assert [each["step"] for each in metrics.records] == list(range(5, 101, 5))
    assert "last line" in metrics.note


def test_damage_in_the_middle_is_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"st\noh\n{"step": 2, "loss": 1}\n')
    metrics = read_metrics(path)
    assert metrics.curve("loss") == ([1, 2], [2.0, 1.0])
    assert metrics.note == "2 line(s) of metrics.jsonl cannot be read and are left out, the first in line 2"


def test_a_step_that_was_run_again_counts_as_logged_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 8}\n{"step": 1, "loss": 3}\n{"step": 2, "val_loss": 2}\n')
    metrics = read_metrics(path)
    assert metrics.curve("loss") == ([1, 2], [3.0, 8.0])
    assert metrics.curve("val_loss") == ([2], [2.0])
    assert metrics.note is None


def test_absent_metrics_hold_nothing(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl").records == ()


def test_runs_are_listed_by_their_last_change(tmp_path):
    for number, name in enumerate(["new", "old", "middle"]):
        folder = make_run(tmp_path / name)
        for file in folder.iterdir():
            if file.is_file():
                at = 1_000_000 + {"old": 0, "middle": 1, "new": 2}[name] * 1000 + number
                os.utime(file, (at, at))
    (tmp_path / "notes").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["old", "middle", "new"]
    assert latest_run(tmp_path).name == "new"


def test_the_latest_run_with_a_checkpoint(tmp_path):
    """A run that was killed as it began cannot say anything, and does not stand before those that can."""
    make_run(tmp_path / "whole")
    begun = make_run(tmp_path / "begun", checkpoint_steps=())
    os.utime(begun / "metrics.jsonl", (2e9, 2e9))
    assert latest_run(tmp_path).name == "whole"
    assert latest_run(tmp_path, has_checkpoint=False).name == "begun"
    shutil.rmtree(tmp_path / "whole")
    with pytest.raises(FileNotFoundError, match=r"there is no run with a checkpoint in .* yet"):
        latest_run(tmp_path)


def test_without_a_run_there_is_no_latest(tmp_path):
    with pytest.raises(FileNotFoundError, match="cutaway train"):
        latest_run(tmp_path)
    assert list_runs(tmp_path / "absent") == []


def test_the_root_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path))
    assert runs_root() == tmp_path
    monkeypatch.delenv("CUTAWAY_RUNS")
    assert str(runs_root()) == "runs"


def test_a_checkpoint_knows_its_step_and_its_run(tmp_path):
    folder = make_run(tmp_path / "tiny")
    step = folder / "checkpoints" / "step-000050"
    checkpoint = Checkpoint.at(step)
    assert checkpoint == Checkpoint(step, 50)
    assert checkpoint.run == Run(folder)
    assert checkpoint.tensors() == {"embed.W_E": ("F32", (11, 8))}
    assert checkpoint.n_bytes == sum(file.stat().st_size for file in step.iterdir())


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run"):
        Run(tmp_path / "absent")
    with pytest.raises(ValueError, match="is no run"):
        Run(tmp_path)
    make_run(tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match="has tiny"):
        Run(tmp_path / "tinny")


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {}}'])
def test_a_configuration_that_cannot_be_read_makes_no_run(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="is no run"):
        Run(tmp_path)


def test_a_configuration_that_does_not_hold_together_names_its_file(tmp_path):
    folder = make_run(tmp_path / "tiny")
    values = json.loads((folder / "config.json").read_text())
    values["model"]["n_heads"] = 3
    values["model"]["n_kv_heads"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: n_heads 3 does not divide"):
        _ = Run(folder).model_config


def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path):
    folder = make_run(tmp_path / "tiny", checkpoint_steps=(50,))
    weights = folder / "checkpoints/step-000050/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        Checkpoint.at(weights.parent).tensors()
    (weights.parent / "config.json").rename(folder / "taken")
    assert Run(folder).checkpoints() == [Checkpoint(weights.parent, 50)]
    (folder / "taken").rename(weights.parent / "config.json")
    weights.unlink()
    assert Run(folder).checkpoints() == []
    assert Run(folder).latest_checkpoint() is None
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        Checkpoint.at(weights.parent)


class TestWhatIsVerified:
    """Everything that was recorded, or the files that are asked for and the state that holds their hashes."""

    WEIGHTS = ("config.json", "model.safetensors")

    @pytest.fixture
    def checkpoint(self, tmp_path):
        path = make_run(tmp_path / "tiny", checkpoint_steps=(50,)) / "checkpoints/step-000050"
        (path / "optimizer.safetensors").write_bytes(b"averages")
        state = {"step": 50}
        sha256 = {file.name: file_sha256(file) for file in path.iterdir()} | {"state.json": values_sha256(state)}
        (path / "state.json").write_text(json.dumps({**state, "sha256": sha256}))
        return Checkpoint.at(path)

    def test_what_is_whole(self, checkpoint):
        assert checkpoint.verify() == checkpoint.verify(self.WEIGHTS) == {"step": 50}

    def test_a_missing_file(self, checkpoint):
        (checkpoint.path / "optimizer.safetensors").unlink()
        with pytest.raises(ValueError, match=r"optimizer\.safetensors is missing: use another checkpoint, or remove step-000050"):
            checkpoint.verify()
        assert checkpoint.verify(self.WEIGHTS) == {"step": 50}

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "optimizer.safetensors"])
    def test_a_damaged_file(self, checkpoint, name):
        file = checkpoint.path / name
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        with pytest.raises(
            ValueError, match=rf"{name} is damaged \(its sha256 is not the one recorded .*\): use another checkpoint"
        ):
            checkpoint.verify()
        if name in self.WEIGHTS:
            with pytest.raises(ValueError, match=f"{name} is damaged"):
                checkpoint.verify(self.WEIGHTS)
        else:
            assert checkpoint.verify(self.WEIGHTS) == {"step": 50}

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda state: state.update(step=51), "state.json"),
            (lambda state: state.pop("sha256"), "state.json"),
            (lambda state: state["sha256"].pop("model.safetensors"), "model.safetensors"),
        ],
        ids=["another step", "no hashes", "no hash of the weights"],
    )
    def test_a_state_that_was_changed(self, checkpoint, change, name):
        file = checkpoint.path / "state.json"
        state = json.loads(file.read_text())
        change(state)
        file.write_text(json.dumps(state))
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            checkpoint.verify(self.WEIGHTS)

    def test_a_folder_of_another_maker_is_taken_as_it_is(self, checkpoint, tmp_path):
        (checkpoint.path / "state.json").unlink()
        with pytest.raises(ValueError, match=r"state\.json is missing: use another checkpoint"):
            checkpoint.verify()
        alone = checkpoint.path.rename(tmp_path / "alone")
        assert Checkpoint.at(alone).verify() == {}
