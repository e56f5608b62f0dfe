"""How long it takes until something happens: importing cutaway beyond torch, and `cutaway --help`."""

from __future__ import annotations

import subprocess
import sys

from cutaway.measure import seconds_in_turn

PUBLIC = "import cutaway; cutaway.ModelConfig, cutaway.Transformer, cutaway.Hooks, cutaway.load, cutaway.train"


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    times = seconds_in_turn(
        {
            "python": lambda: run("-c", "pass"),
            "torch": lambda: run("-c", "import torch"),
            "import": lambda: run("-c", "import torch, cutaway"),
            "everything": lambda: run("-c", f"import torch; {PUBLIC}"),
            "help": lambda: run("-m", "cutaway", "--help"),
        },
        n_rounds=7,
    )
    print(f"import cutaway beyond torch   {times['import'] - times['torch']:6.3f} s   (at most 0.15)")
    print(f"every public name beyond it   {times['everything'] - times['torch']:6.3f} s")
    print(f"cutaway --help                {times['help']:6.3f} s   (at most 0.4; python itself {times['python']:.3f})")


if __name__ == "__main__":
    main()
