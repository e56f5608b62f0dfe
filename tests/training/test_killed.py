"""Whatever moment SIGKILL comes at, the run goes on to the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_training import hashes, learned

HERE = Path(__file__).parent


@pytest.mark.parametrize(("n_kills", "n_steps"), [(3, 40), pytest.param(10, 200, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_same_weights(play, tmp_path, capsys, n_kills, n_steps):
    done = subprocess.run(
        [sys.executable, HERE / "train_and_kill.py", play, tmp_path, str(n_kills), str(n_steps)],
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    with capsys.disabled():
        steps = ", ".join(map(str, said["killed_after_steps"]))
        print(f"\n{n_kills} kills, {said['n_while_writing']} of them while a checkpoint was being written; newest then: {steps}")
    assert len(said["killed_after_steps"]) == n_kills, "the run was over before the last kill"
    assert said["n_while_writing"] >= n_kills // 2
    assert learned(tmp_path / "killed") == learned(tmp_path / "whole")
    assert hashes(tmp_path / "killed").keys() == hashes(tmp_path / "whole").keys()
    last = f"checkpoints/step-{n_steps:06d}/model.safetensors"
    assert hashes(tmp_path / "killed")[last] == hashes(tmp_path / "whole")[last]
