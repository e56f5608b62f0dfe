"""`python -m benchmarks [NAME ...]`: run the benchmarks of these names, or all, one after the other."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = (
    "startup",
    "profile",
    "load",
    "loss",
    "circuits",
    "edges",
    "induction",
    "ioi",
    "sweep",
    "store",
    "documents",
)
LONG = ("growth", "attribution_graphs", "circuit_faithfulness", "known_features", "sae", "shakespeare_fast")
"""Those that take longest, up to half an hour: run when they are named."""
OF_THE_COMMAND = ("profile", "growth")
"""Those that `cutaway bench` has."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, *LONG, []], help="which to run; all but the longest unless given")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT to train beside")
    parser.add_argument(
        "--transformer-lens", type=Path, metavar="PYTHON", help="a Python that has TransformerLens 2, to patch beside"
    )
    parser.add_argument("--text", type=Path, help="the text to train on; tiny Shakespeare, or the plays, unless given")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.names or NAMES:
        extra = ["--nanogpt", str(arguments.nanogpt)] if arguments.nanogpt and name in ("profile", "shakespeare_fast") else []
        if arguments.transformer_lens and name in ("profile", "sweep"):
            extra += ["--transformer-lens", str(arguments.transformer_lens)]
        if arguments.text and name in ("loss", "shakespeare_fast", "attribution_graphs"):
            extra += ["--text", str(arguments.text)]
        print(f"\n== {name}", flush=True)
        module = ["cutaway", "bench", name] if name in OF_THE_COMMAND else [f"benchmarks.{name}"]
        if subprocess.call([sys.executable, "-m", *module, *extra]):  # each in a process of its own
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
