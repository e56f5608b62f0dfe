"""Whatever moment SIGKILL comes at, the run goes on to the same weights."""

from pathlib import Path

import pytest

from cutaway.runs import Run
from many_processes import told_by
from tiny_training import hashes, learned

HERE = Path(__file__).parent


def kills(data, out, n_kills, n_steps, n_ranks=1, parallel="ddp"):
    """Train and be killed so often; say when that was."""
    asked = (data, out, n_kills, n_steps, n_ranks, parallel)
    quiet = {"TORCH_CPP_LOG_LEVEL": "FATAL"}  # torch logs that a process is gone, beside raising it
    said = told_by(HERE / "train_and_kill.py", *asked, timeout_s=600, **quiet)
    assert len(said["killed_after_steps"]) == n_kills, "the run was over before the last kill"
    assert said["n_while_writing"] >= n_kills // 2
    steps = ", ".join(map(str, said["killed_after_steps"]))
    who = "" if n_ranks == 1 else f" of one or all of {n_ranks} processes ({parallel})"
    return f"\n{n_kills} kills{who}, {said['n_while_writing']} while a checkpoint was being written; newest then: {steps}"


def check_same(killed, whole, n_steps):
    """Nothing is lost, nothing is there twice: the same weights, records and files as of a run that was not killed."""
    assert learned(killed) == learned(whole)
    assert [record["step"] for record in Run(killed).metrics().records] == list(range(n_steps + 1))
    assert hashes(killed).keys() == hashes(whole).keys()
    last = f"checkpoints/step-{n_steps:06d}/model.safetensors"
    assert hashes(killed)[last] == hashes(whole)[last]


@pytest.mark.parametrize(("n_kills", "n_steps"), [(3, 40), pytest.param(10, 200, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_same_weights(play, tmp_path, capsys, n_kills, n_steps):
    said = kills(play, tmp_path, n_kills, n_steps)
    with capsys.disabled():
        print(said)
    check_same(tmp_path / "killed", tmp_path / "whole", n_steps)


@pytest.mark.parametrize(("n_kills", "n_steps"), [(2, 12), pytest.param(10, 100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_killed_run_of_two_processes_ends_in_the_same_weights(play, tmp_path, capsys, parallel, n_kills, n_steps):
    said = kills(play, tmp_path, n_kills, n_steps, 2, parallel)
    with capsys.disabled():
        print(said)
    check_same(tmp_path / "killed", tmp_path / "whole", n_steps)
