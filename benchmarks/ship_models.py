"""Put a model that a reproduction trained into the package, with its card: `python -m benchmarks.ship_models FOLDER NAME "what it is"`.

FOLDER is that of a finished reproduction, as `cutaway reproduce induction --out FOLDER` makes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cutaway import experiments
from cutaway.assets.shipped import SHIPPED
from cutaway.experiments.frame import ship
from cutaway.values import read_object


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ship_models", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("about")
    parser.add_argument("--prompt", help="an example of what it reads")
    parser.add_argument("--max-new-tokens", type=int, help="how many tokens its answer has")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    example = {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens}
    experiment = experiments.experiment(read_object(arguments.folder / "experiment.json")["experiment"])
    made = ship(experiment, arguments.folder, arguments.name, SHIPPED, seed=arguments.seed, about=arguments.about, **example)
    print(f"{made}: {sum(file.stat().st_size for file in made.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
