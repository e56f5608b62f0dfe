"""Running an experiment on several seeds, each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cutaway.experiments.frame.experiment import Experiment
from cutaway.experiments.frame.reproduction import Reproduction
from cutaway.experiments.frame.saved import Finished, Folder, made_here
from cutaway.experiments.frame.trial import Trial
from cutaway.runtime import free_memory_gib

__all__ = ["check_memory", "parse_seeds", "reproduce"]


def reproduce(
    experiment: Experiment[Any],
    *,
    seeds: Sequence[int] = (0,),
    config: Any = None,
    folder: Path | None = None,
    report: Callable[[int, int, str], None] = lambda *_: None,
    finish: Callable[[int, Finished], None] = lambda *_: None,
) -> Reproduction:
    """Run an experiment on each seed and return what came of all; `config` is the small one unless given.

    In a `folder`, seeds that are finished are read, others go on from the models that were trained, and nothing is lost when it is
    stopped. `report` hears how many of how many steps are done of what is at work, `finish` what each seed came to. Raises ValueError
    for a configuration of another experiment, and for a folder that holds something else.
    """
    config = experiment.scale("small").config if config is None else config
    settings = experiment.settings(config)
    kept = None if folder is None else Folder.opened(folder, experiment.id, settings)
    finished: dict[int, Finished] = {}
    for seed in seeds:
        known = kept.read(seed) if kept else None
        if known is None:
            known = _run(experiment, config, Trial(seed=seed, folder=kept.of_seed(seed) if kept else None, report=report))
            if kept:
                kept.write(seed, known)
        finished[seed] = known
        finish(seed, known)
    return Reproduction(experiment=experiment, settings=settings, finished=finished)


def _run(experiment: Experiment[Any], config: Any, trial: Trial) -> Finished:
    started = time.perf_counter()
    with torch.enable_grad(), torch.random.fork_rng():  # whatever mode the caller is in; the caller's randomness stays
        outcome = experiment.run(config, trial)
    arrays = {name: array.detach().cpu() for name, array in outcome.arrays.items()}
    return Finished(outcome=replace(outcome, arrays=arrays), time_s=time.perf_counter() - started, made_with=made_here())


def check_memory(experiment: Experiment[Any], scale: str) -> None:
    """Raise ValueError, before anything is begun, for a scale that needs more memory than is free."""
    needed, free = experiment.scale(scale).memory_gib, free_memory_gib(torch.device("cpu"))
    if free is not None and needed > free:
        raise ValueError(f"{experiment.id} at scale {scale} needs about {needed:.1f} GiB of memory and {free:.1f} GiB are free")


def parse_seeds(text: str, *, first: int = 0) -> list[int]:
    """Return the seeds that a text names: `3` is that many from `first` on, `0,4,7` are these; raises ValueError for others."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"seeds are {text!r}; expected how many, as 3, or which, as 0,4,7")
    numbers = [int(part) for part in parts]
    if len(numbers) > 1:
        return list(dict.fromkeys(numbers))
    if numbers[0] < 1:
        raise ValueError(f"seeds are {text!r}; expected at least 1")
    return list(range(first, first + numbers[0]))
