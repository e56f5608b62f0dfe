"""Train, be killed by SIGKILL again and again, go on each time: run by test_killed.py in a process of its own.

One process loads torch once and forks for every life of the run, of one process or of several that train together. A life is let go on
for a random number of steps, maybe none. Then half of the kills come after a random time, the other half while a checkpoint is being
written: the life is halted when its temporary folder is seen, and killed if that is still there. Of several processes a random one is
killed, which the others notice, or all of them at once, as when the power goes.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed.fsdp
from torch.distributed.checkpoint import hf_storage  # noqa: F401

from cutaway.ranks import LostRankError
from cutaway.runs import Run
from cutaway.training import TrainConfig, resume, train
from tiny_training import tiny_config

Life = list[int]  # process numbers, the first rank's first


def live(config: TrainConfig, n_ranks: int) -> Life:
    """Begin the run, or go on with it, in children; return their process numbers."""
    told: dict[str, str] = {}
    if n_ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        told |= {"WORLD_SIZE": str(n_ranks), "LOCAL_WORLD_SIZE": str(n_ranks)}
    return [fork(config, told | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(n_ranks)]


def fork(config: TrainConfig, told: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(told)
    try:
        folder = Path(config.out or "")
        resume(folder, quiet=True) if (folder / "config.json").exists() else train(config, quiet=True)
    except (LostRankError, SystemExit):  # another was killed
        os._exit(1)
    except BaseException as error:
        print(f"a life ended in {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def is_writing(life: Life, folder: Path) -> bool:
    """Return whether there is a part of a checkpoint by this very life: those before it left theirs to be cleared."""
    return any((folder / "checkpoints").glob(f".step-*.{life[0]}.tmp"))


def is_over(life: Life) -> bool:
    """Return whether the first process has ended; the whole script ends where it failed."""
    found, status = os.waitpid(life[0], os.WNOHANG)
    if not found:
        return False
    if status:
        sys.exit(1)
    end(life[1:])
    return True


def end(life: Life) -> None:
    for child in life:
        os.waitpid(child, 0)


def kill(life: Life, draw: random.Random) -> None:
    """Kill all processes, or one of them, and wait for the others to end of themselves."""
    for child in life if draw.random() < 0.5 else [draw.choice(life)]:
        os.kill(child, signal.SIGKILL)
    for child in life:
        os.kill(child, signal.SIGCONT)
    end(life)


def last_step(folder: Path) -> int | None:
    """Return the step of the newest whole checkpoint, None before the first."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=None)


def is_caught_writing(life: Life, folder: Path) -> bool:
    """Halt the first process while it writes a checkpoint; return False when it ended before it was caught at that."""
    while not is_over(life):
        if is_writing(life, folder):
            os.kill(life[0], signal.SIGSTOP)
            time.sleep(0.02)
            if is_writing(life, folder):
                return True
            os.kill(life[0], signal.SIGCONT)
    return False


def main(data: str, out: str, n_kills: int, n_steps: int, n_ranks: int, parallel: str) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    recipe = {"n_steps": n_steps, "save_every": 1, "validate_every": 10, "sample_every": 20, "parallel": parallel}
    whole = tiny_config(Path(data), out=f"{out}/whole", **recipe)
    started = time.perf_counter()
    end(live(whole, n_ranks))
    whole_s = time.perf_counter() - started

    draw, folder = random.Random(n_kills), Path(out) / "killed"
    config = whole.replace(out=str(folder))
    for _ in range(5):  # on a busy machine a run may be over before its last kill: then from the beginning
        shutil.rmtree(folder, ignore_errors=True)
        steps, n_while_writing = kill_repeatedly(config, n_kills, whole_s, draw, n_ranks)
        if len(steps) == n_kills:
            break
    end(live(config, n_ranks))
    print(json.dumps({"killed_after_steps": steps, "n_while_writing": n_while_writing}))


def kill_repeatedly(
    config: TrainConfig, n_kills: int, whole_s: float, draw: random.Random, n_ranks: int
) -> tuple[list[int | None], int]:
    """Return the newest step at each kill, fewer than `n_kills` when the run was over before, and how many came while writing."""
    n_steps, folder = config.n_steps, Path(config.out or "")
    steps: list[int | None] = []
    n_while_writing = 0
    while len(steps) < n_kills:
        done = last_step(folder) or 0
        until = done + draw.randint(0, (n_steps - done) // (n_kills + 1 - len(steps)))
        life = live(config, n_ranks)
        while (last_step(folder) or 0) < until:
            time.sleep(0.0005)
        if len(steps) % 2:
            was_alive = is_caught_writing(life, folder)
        else:
            time.sleep(draw.uniform(0, 4 * whole_s / n_steps))
            was_alive = not is_over(life)
        if not was_alive:
            break
        n_while_writing += is_writing(life, folder)
        kill(life, draw)
        steps.append(last_step(folder))
        for checkpoint in Run(folder).checkpoints() if steps[-1] is not None else ():
            checkpoint.verify()
    return steps, n_while_writing


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
