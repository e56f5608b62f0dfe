"""The job files begin a run, and go on with one that is there: run here with stand-ins for Slurm's commands."""

import os
import subprocess
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "examples/slurm").glob("*.sbatch"))
STAND_INS = {"srun": 'exec "$@"', "scontrol": "echo node-1; echo node-2", "torchrun": """printf '%s\\n' "$@" """}


@pytest.fixture
def commands(tmp_path):
    """A folder of Slurm's commands and torchrun, which prints its arguments one a line."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, does in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_job_begins_a_run_or_goes_on(file, commands, tmp_path):
    def arguments():
        told = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
        environment = os.environ | told | {"PATH": f"{commands}:{os.environ['PATH']}"}
        command = ["bash", file, "my run", "attn-only-2l", "--batch-size", "16"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    begin = ["attn-only-2l", "--batch-size", "16", "--out", "my run"]
    launch, job = arguments()[: -len(begin) - 3], arguments()[-len(begin) - 3 :]
    assert job == ["-m", "cutaway", "train", *begin]
    assert "--nproc-per-node=gpu" in launch
    assert ("--standalone" in launch) != ("--rdzv-endpoint=node-1:29500" in launch)
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run/config.json").write_text("{}")
    assert arguments() == [*launch, "-m", "cutaway", "train", "--resume", "my run"]


def test_there_are_files():
    assert len(FILES) == 2
