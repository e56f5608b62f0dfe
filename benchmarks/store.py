"""The activation store: collecting beside the same forward pass without storing, memory as the corpus grows, reading.

`python -m benchmarks.store [--layer 9] [--n-tokens 4096] [--rounds 3]`. Wanted: SmolLM2's activations collected at 80 % or more of the
forward pass's own speed up to the same layer; the most memory of a process within 5 % as the corpus grows ten times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import cutaway
from cutaway import store
from cutaway.data import write_shard
from cutaway.interp.store.forward import run_until
from cutaway.measure import seconds_in_turn
from cutaway.runtime import seeded_generator

N_CTX = 128

# A model of one wide layer, so that what is stored is much beside what is computed.
GROWING = """
import json, re, sys
from pathlib import Path
import torch
from cutaway import ModelConfig, Transformer, store

config = ModelConfig(d_vocab=500, n_ctx=64, n_layers=1, n_heads=4, d_model=256, d_mlp=512)
model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval()
kept = store.collect(model, sys.argv[1], "blocks.0.resid_post", sys.argv[2], ctx=64, shard_gib=2**-6)
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps({"gib": kept.gib, "peak_gib": int(peak) / 2**20}))
"""


Times = tuple[float, float]
"""Seconds by the clock, and of the processor, which other work on the machine does not change."""


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(started: Times) -> Times:
    clock, processor = now()
    return clock - started[0], processor - started[1]


def speed(layer: int, n_tokens: int, n_rounds: int) -> None:
    """Print tokens a second of storing, of running as far, and of whole forward passes, in turn."""
    lm = cutaway.load("smollm2-135m", device="cpu")
    ids = torch.randint(lm.config.d_vocab, (n_tokens // N_CTX, N_CTX), generator=seeded_generator(0))
    name, batches, beginnings = f"blocks.{layer}.resid_post", ids.split(16), []

    def keep() -> Times:
        started, began = now(), []
        with tempfile.TemporaryDirectory() as folder:
            told = lambda *_: began.append(now())  # noqa: E731
            store.collect(lm.model, ids, name, f"{folder}/kept", dtype=torch.bfloat16, batch_size=16, progress=told)
            beginnings.append(began[0][0] - started[0])
            return since(began[0])

    def run(whole: bool) -> Times:
        started = now()
        with torch.inference_mode():
            for batch in batches:
                lm.model(batch) if whole else run_until(lm.model, batch, {name: lambda *_: None})
        return since(started)

    works = {"as far": lambda: run(whole=False), "stored": keep, "whole": lambda: run(whole=True)}
    rounds = [{work: function() for work, function in works.items()} for _ in range(1 + n_rounds)][1:]
    times = {work: statistics.median(each[work][0] for each in rounds) for work in works}
    clock, processor = (100 * statistics.median(each["as far"][i] / each["stored"][i] for each in rounds) for i in range(2))
    print(f"SmolLM2, {name} of {n_tokens:,} tokens in bfloat16, {torch.get_num_threads()} threads, medians of {n_rounds} in turn")
    for work, time_s in times.items():
        print(f"  {work:7} {n_tokens / time_s:6.0f} tokens/s")
    print(
        f"  stored at {clock:.1f} % of the speed of the run as far by the clock, {processor:.1f} % by processor time (at least 80)"
    )
    print(f"  and {times['whole'] / times['stored']:.2f} x as fast as whole forward passes")
    print(f"  before the first batch, once: {min(beginnings):.2f} s, most of it the hash of the weights")


def memory() -> None:
    """Print the most memory of processes that store a corpus and one ten times as long."""
    peaks = []
    for n_tokens in (50_000, 500_000):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "ids.bin"
            write_shard(data, torch.randint(500, (n_tokens,), generator=seeded_generator(0)).numpy(), d_vocab=500)
            said = subprocess.check_output([sys.executable, "-c", GROWING, str(data), f"{folder}/kept"], text=True)
        found = json.loads(said)
        peaks.append(found["peak_gib"])
        print(f"{n_tokens:,} tokens, {found['gib']:.3f} GiB stored: at most {found['peak_gib']:.3f} GiB of memory")
    print(f"  {100 * (peaks[1] / peaks[0] - 1):+.1f} % (at most 5)")


def reading(n_rows: int = 400_000, d: int = 256) -> None:
    """Print how fast rows come back, in order and shuffled, beside reading the same files from end to end."""
    with tempfile.TemporaryDirectory() as folder:
        config = cutaway.ModelConfig(d_vocab=500, n_ctx=64, n_layers=1, n_heads=4, d_model=d, d_mlp=4)
        model = cutaway.Transformer(config, generator=seeded_generator(0)).eval()
        ids = torch.randint(500, (n_rows // 64, 64), generator=seeded_generator(0))
        kept = store.collect(model, ids, "embed", folder, shard_gib=2**-4)
        x = kept["embed"]

        def in_order() -> None:
            for start in range(0, len(x), 4096):
                x[start : start + 4096]

        def shuffled() -> None:
            for _ in x.batches(4096, seed=0):
                pass

        def end_to_end() -> None:
            for path in Path(folder).glob("*.safetensors"):
                with path.open("rb", buffering=0) as file:
                    while file.read(2**20):
                        pass

        times = seconds_in_turn({"end to end": end_to_end, "in order": in_order, "shuffled": shuffled}, n_rounds=3)
        print(f"{len(x):,} rows of {d} float32, {kept.gib:.2f} GiB in {kept.plan.n_shards} shards, cached by the system")
        for work, time_s in times.items():
            print(f"  {work:10} {kept.gib * 2**30 / time_s / 1e9:5.2f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--layer", type=int, default=9)
    parser.add_argument("--n-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    started = time.perf_counter()
    speed(arguments.layer, arguments.n_tokens, arguments.rounds)
    memory()
    reading()
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
