"""Train, be killed by SIGKILL again and again, go on each time: run by test_killed.py in a process of its own.

One process loads torch once and forks for every life of the run. Half of the kills come at a random moment, the other half
while a checkpoint is being written: the life is halted when its temporary folder is seen, and killed if that is still there.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from cutaway.runs import Run
from cutaway.training import TrainConfig, resume, train
from tiny_training import tiny_config


def live(config: TrainConfig) -> int:
    """Begin the run, or go on with it, in a child; return the child's process number."""
    child = os.fork()
    if child:
        return child
    try:
        folder = Path(config.out or "")
        resume(folder, quiet=True) if (folder / "config.json").exists() else train(config, quiet=True)
    except BaseException as error:
        print(f"a life ended in {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def is_writing(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step-*.tmp"))


def is_over(child: int) -> bool:
    found, status = os.waitpid(child, os.WNOHANG)
    if found and status:
        sys.exit(1)
    return found != 0


def kill_at(moment_s: float, child: int) -> bool:
    """Kill the child after so many seconds; return whether it was still alive."""
    time.sleep(moment_s)
    if is_over(child):
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def kill_while_writing(child: int, folder: Path) -> bool:
    """Kill the child while it writes a checkpoint; return False when it ended before it was caught at that."""
    while not is_over(child):
        if is_writing(folder):
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.02)
            if is_writing(folder):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True
            os.kill(child, signal.SIGCONT)
    return False


def main(data: str, out: str, n_kills: int, n_steps: int) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    recipe = {"n_steps": n_steps, "save_every": 1, "validate_every": 10, "sample_every": 20}
    whole = tiny_config(Path(data), out=f"{out}/whole", **recipe)
    started = time.perf_counter()
    os.waitpid(live(whole), 0)
    whole_s = time.perf_counter() - started

    draw, folder = random.Random(n_kills), Path(out) / "killed"
    config = whole.replace(out=str(folder))
    steps, n_while_writing = [], 0
    while len(steps) < n_kills:
        child = live(config)
        if len(steps) % 2:
            time.sleep(draw.uniform(0, 0.5 * whole_s / n_kills))
            was_killed = kill_while_writing(child, folder)
        else:
            was_killed = kill_at(draw.uniform(0, whole_s / n_kills), child)
        if not was_killed:
            break  # the run was over: fewer kills than asked for, which the test will say
        n_while_writing += is_writing(folder)
        newest = Run(folder).latest_checkpoint() if (folder / "config.json").exists() else None
        steps.append(newest.step if newest else None)
    os.waitpid(live(config), 0)
    print(json.dumps({"killed_after_steps": steps, "n_while_writing": n_while_writing}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
