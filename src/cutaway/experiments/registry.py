"""The experiments by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.assets.shipped import shipped_card, shipped_models
from cutaway.runtime import did_you_mean

if TYPE_CHECKING:
    from cutaway.experiments.frame import Experiment, Reproduction

__all__ = ["NAMES", "experiment", "run"]

NAMES: tuple[str, ...] = (
    "bigrams",
    "skip-trigrams",
    "induction",
    "attention-patterns",
    "head-pruning",
    "lens",
    "feed-forward-memories",
    "sae-one-layer",
    "probing",
    "brackets",
    "greater-than",
    "ioi-mini",
    "copy-suppression",
    "factual-recall",
    "superposition-geometry",
    "superposition-dimensionality",
    "superposition-correlation",
    "superposition-phases",
    "privileged-basis",
    "sae-known-features",
    "grokking",
    "grokking-without-decay",
    "modular-clock",
    "smollm2-induction",
    "residual-norms",
)  # fmt: skip
"""The experiments, in the order in which one might read them; each is the module of its name, `-` written `_`."""


def experiment(name: str) -> Experiment[Any]:
    """Return the experiment of this name; raises ValueError, with the nearest name, for one that there is not."""
    if name not in NAMES:
        if name in shipped_models():
            trained_by = shipped_card(name)["experiment"]
            raise ValueError(f"{name} is a model that comes with cutaway; the experiment that trains it is {trained_by}")
        meant = did_you_mean(name, NAMES)
        raise ValueError(f"there is no experiment {name!r}; {meant}cutaway reproduce --list shows the {len(NAMES)} there are")
    found: Experiment[Any] = import_module(f"cutaway.experiments.{name.replace('-', '_')}").EXPERIMENT
    return found


def run(name: str, config: Any = None, *, seeds: int | Sequence[int] = (0,), folder: Path | str | None = None) -> Reproduction:
    """Run an experiment and return its checks, numbers and figures; `config` is the small one unless given.

    `seeds` are these, or so many from 0 on. In a `folder`, what is finished stays finished when it is stopped. Raises ValueError for a
    name that there is not.

    >>> import cutaway
    >>> quick = cutaway.experiments.experiment("bigrams").scale("reduced").config
    >>> cutaway.experiments.run("bigrams", quick).passed
    True
    """
    from cutaway.experiments.frame import reproduce

    seeds = range(seeds) if isinstance(seeds, int) else seeds
    return reproduce(experiment(name), seeds=seeds, config=config, folder=None if folder is None else Path(folder))
