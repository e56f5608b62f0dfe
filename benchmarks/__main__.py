"""`python -m benchmarks [NAME ...]`: run the benchmarks of these names, or all, one after the other."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = ("startup", "forward", "decode", "load", "train", "circuits", "edges", "induction", "ioi", "sweep")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which to run; all unless given")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT to train beside")
    parser.add_argument("--text", type=Path, help="the text to train on; tiny Shakespeare is fetched unless given")
    arguments = parser.parse_args()
    for name in arguments.names or NAMES:
        extra = []
        if name == "train":
            extra += ["--nanogpt", str(arguments.nanogpt)] if arguments.nanogpt else []
            extra += ["--text", str(arguments.text)] if arguments.text else []
        print(f"\n== {name}", flush=True)
        if code := subprocess.call([sys.executable, "-m", f"benchmarks.{name}", *extra]):  # each in a process of its own
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
