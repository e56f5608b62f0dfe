"""Train, be killed by SIGKILL again and again, go on each time: run by test_killed.py in a process of its own.

One process loads torch once and forks for every life of the run. A life is let go on for a random number of steps, maybe none.
Then half of the kills come after a random time, the other half while a checkpoint is being written: the life is halted when its
temporary folder is seen, and killed if that is still there.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

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


def is_writing(child: int, folder: Path) -> bool:
    """Return whether there is a part of a checkpoint by this very child: those before it left theirs to be cleared."""
    return any((folder / "checkpoints").glob(f".step-*.{child}.tmp"))


def is_over(child: int) -> bool:
    found, status = os.waitpid(child, os.WNOHANG)
    if found and status:
        sys.exit(1)
    return found != 0


def last_step(folder: Path) -> int | None:
    """Return the step of the newest whole checkpoint, None before the first."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=None)


def kill_after(time_s: float, child: int) -> bool:
    """Kill the child after so many seconds; return whether it was still alive."""
    time.sleep(time_s)
    if is_over(child):
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def kill_while_writing(child: int, folder: Path) -> bool:
    """Kill the child while it writes a checkpoint; return False when it ended before it was caught at that."""
    while not is_over(child):
        if is_writing(child, folder):
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.02)
            if is_writing(child, folder):
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
    for _ in range(5):  # on a busy machine a run may be over before its last kill: then from the beginning
        shutil.rmtree(folder, ignore_errors=True)
        steps, n_while_writing = kill_repeatedly(config, n_kills, whole_s, draw)
        if len(steps) == n_kills:
            break
    os.waitpid(live(config), 0)
    print(json.dumps({"killed_after_steps": steps, "n_while_writing": n_while_writing}))


def kill_repeatedly(config: TrainConfig, n_kills: int, whole_s: float, draw: random.Random) -> tuple[list[int | None], int]:
    """Return the newest step at each kill, fewer than `n_kills` when the run was over before, and how many came while writing."""
    n_steps, folder = config.n_steps, Path(config.out or "")
    steps: list[int | None] = []
    n_while_writing = 0
    while len(steps) < n_kills:
        done = last_step(folder) or 0
        until = done + draw.randint(0, (n_steps - done) // (n_kills + 1 - len(steps)))
        child = live(config)
        while (last_step(folder) or 0) < until:
            time.sleep(0.0005)
        if len(steps) % 2:
            was_killed = kill_while_writing(child, folder)
        else:
            was_killed = kill_after(draw.uniform(0, 4 * whole_s / n_steps), child)
        if not was_killed:
            break
        n_while_writing += is_writing(child, folder)
        steps.append(last_step(folder))
    return steps, n_while_writing


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
