"""Seconds to a validation loss of 1.8857 nats a character on tiny Shakespeare: `shakespeare-fast` and nanoGPT's own training, in turn.

`python -m benchmarks.shakespeare_fast --nanogpt CLONE` runs a clone's train.py with the command that its README gives for a CPU, on
data that its own prepare.py makes, and times it from the line of its first look to the first of its looks, every 250 steps on 240
random windows, that is as low as the aim, or else to its last: its imports, its beginning and its first look are given to it. Of ours
all that follows the import counts, each run in a process of its own: reading the text, making the model, looking at all validation
windows before and after, the sample, the checkpoints. With `--pieces` each piece of the recipe is taken out, and what is left is given
more steps until it is as low: how many steps and seconds the piece is worth.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import cutaway
from cutaway import assets
from cutaway.measure import seconds_in_turn
from cutaway.model import Transformer
from cutaway.runs import Run
from cutaway.training.muon import Muon

AIM = 1.8857
MOST_STEPS = 3000
COMMAND = shlex.split(
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 "
    "--n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
LOOK = re.compile(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)")

PIECES: dict[str, dict[str, Any]] = {
    "all pieces": {},
    "AdamW for Muon": {"optimizer": "adamw", "learning_rate": 5e-3, "n_warmup_steps": 20},
    "learned positions for rotary": {"position": "learned", "learning_rate": 1e-2},
    "nanoGPT's shape: 4 heads, width 128": {"n_heads": 4, "d_model": 128, "learning_rate": 1.6e-2},
    "the rate falls as a cosine": {"schedule": "cosine"},
    "whole windows from the start": {"n_first_window": None},
    "batches of 12": {"batch_size": 12},
    "float32": {"dtype": "float32"},
}
"""What is taken out, with the best of a few rates for what is left."""


class Reached(NamedTuple):
    """The end of a run: its last validation loss, or the first that is as low as the aim, after so many steps and seconds."""

    loss: float
    n_steps: int
    time_s: float

    def __str__(self) -> str:
        return f"{self.loss:.4f} after {self.n_steps} steps, {self.time_s:.1f} s"


def ours(text: str, changes: Mapping[str, Any]) -> Reached:
    """Train from the text to the end, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(train, text, changes).result()


def train(text: str, changes: Mapping[str, Any]) -> Reached:
    with tempfile.TemporaryDirectory() as folder:
        config = cutaway.TrainConfig.preset("shakespeare-fast", data=text, out=f"{folder}/run", **changes)
        started = time.perf_counter()
        run = cutaway.train(config, quiet=True)
        time_s = time.perf_counter() - started
        return Reached(Run(run).metrics().last("val_loss"), config.n_steps, time_s)


def nanogpt(clone: Path, text: Path) -> Reached:
    """Run nanoGPT's prepare.py and train.py in a copy of the clone."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(clone, Path(folder) / "nanogpt", ignore=shutil.ignore_patterns(".git", "*.bin", "*.pkl", "out-*"))
        data = copy / "data" / "shakespeare_char"
        shutil.copyfile(text, data / "input.txt")
        subprocess.run([sys.executable, data / "prepare.py"], check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-u", "train.py", *COMMAND]
        started, reached = 0.0, None
        with subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if look := LOOK.match(line):
                    reached = Reached(float(look[2]), int(look[1]), time.perf_counter() - started)
                    started = started or time.perf_counter()
                    if reached.loss <= AIM:
                        process.terminate()
                        break
    if reached is None or not reached.n_steps:
        raise RuntimeError(f"{clone}/train.py ended before it had trained")
    return reached


def needed(text: str, changes: Mapping[str, Any], n_steps: int) -> Reached:
    """Return a run that is as low as the aim, nearly the shortest: each try is longer by what the last one was short of it."""
    while (reached := ours(text, {**changes, "n_steps": n_steps})).loss > AIM and n_steps < MOST_STEPS:
        n_steps = round(n_steps * min(1.5, max(1.05, math.exp((reached.loss - AIM) / 0.2))))
    return reached


def compiled(text: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # the processes that train have it too
        for name in ("cold", "warm"):
            print(f"compiled, with a {name} cache: {ours(text, {'compile': True})}", flush=True)


def muons() -> dict[str, float]:
    """Return the seconds that a move of the model's matrices takes by our Muon, and by torch's, which turns one after the other."""
    model = Transformer(cutaway.ModelConfig.preset("shakespeare-fast"))
    weights = [nn.Parameter(torch.randn(weight.shape)) for weight in model.blocks.parameters() if weight.ndim == 2]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    steps = {"ours": Muon(weights, lr=0.01, dtype=torch.bfloat16).step, "torch.optim.Muon": torch.optim.Muon(weights, lr=0.01).step}
    return seconds_in_turn(steps, n_rounds=50)


def compare(clone: Path | None, text: Path, n_rounds: int) -> None:
    runs: dict[str, list[Reached]] = {}
    for seed in range(n_rounds):
        runs.setdefault("cutaway", []).append(ours(str(text), {"seed": seed}))
        if clone:
            runs.setdefault("nanoGPT", []).append(nanogpt(clone, text))
        print(*(f"{name}: {reached[-1]}" for name, reached in runs.items()), sep="   ", flush=True)
    medians = {name: statistics.median(reached.time_s for reached in many) for name, many in runs.items()}
    losses = ", ".join(f"{reached.loss:.4f}" for reached in runs["cutaway"])
    print(f"cutaway: median {medians['cutaway']:.1f} s, losses over all validation windows {losses}; the aim is {AIM}")
    if clone:
        print(f"nanoGPT: median {medians['nanoGPT']:.1f} s, {medians['nanoGPT'] / medians['cutaway']:.2f} x ours (at least 4)")


def pieces(text: str) -> None:
    print("| without | steps | seconds | loss |", "|---|---|---|---|", sep="\n")
    for name, changes in PIECES.items():
        reached = needed(text, changes, n_steps=200)
        print(f"| {name} | {reached.n_steps} | {reached.time_s:.1f} | {reached.loss:.4f} |", flush=True)
    moves = ", ".join(f"{name} {1000 * time_s:.1f} ms" for name, time_s in muons().items())
    print(f"a move by Muon: {moves}")
    compiled(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shakespeare_fast", description=__doc__)
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT; without one ours alone is timed")
    parser.add_argument("--text", type=Path, help="tiny Shakespeare as a file; fetched unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", action="store_true", help="what each piece is worth, instead of the comparison")
    arguments = parser.parse_args()
    text = arguments.text or next(iter(assets.fetch("tinyshakespeare").values()))
    print(f"{torch.get_num_threads()} threads")
    if not arguments.pieces:
        compare(arguments.nanogpt, text, arguments.rounds)
        return
    pieces(str(text))


if __name__ == "__main__":
    main()
