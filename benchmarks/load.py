"""Loading SmolLM2 once it is in the cache: the time beyond imports, and the most memory beyond them, in a fresh process each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import cutaway

LOAD = """
import json, re, time
from pathlib import Path
import torch
from cutaway.language_model import load

def memory(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, started = memory("VmRSS"), time.perf_counter()
lm = load("smollm2-135m", device="cpu")
time_s = time.perf_counter() - started
n_bytes = sum(weight.nbytes for weight in lm.model.parameters())
print(json.dumps({"time_s": time_s, "peak": (memory("VmHWM") - before) / n_bytes, "n_bytes": n_bytes}))
"""


def main() -> None:
    cutaway.load("smollm2-135m")  # fetches it the first time, and makes float32 of its four bits
    found = [json.loads(subprocess.check_output([sys.executable, "-c", LOAD], text=True)) for _ in range(5)]
    time_s, peak = (statistics.median(each[name] for each in found) for name in ("time_s", "peak"))
    print(
        f"{found[0]['n_bytes'] / 1e6:.0f} MB of weights in {time_s:.2f} s (at most 3), peak {peak:.2f} x the weights (at most 1.3)"
    )


if __name__ == "__main__":
    main()
