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
from cutaway.experiments.frame.sources import sources_sha256
from cutaway.experiments.frame.trial import Trial
from cutaway.runtime import free_memory_gib
from cutaway.values import read_object, shortened

_MOST_SEEDS, _MOST_DIGITS = 1000, 18

__all__ = ["check_folder", "check_memory", "finished_seeds", "parse_seeds", "reproduce"]


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

    In a `folder`, seeds that the same code has finished are read, others go on from the models that were trained; when it is stopped,
    at most half a minute of training is lost. A seed that other code has finished, as `sources_sha256` tells, is measured anew on
    the weights that are there, and its record says which code trained these. `report` hears how many of how many steps are done of
    what is at work, `finish` what each seed came to.
    Raises ValueError for no seeds, for a configuration of another experiment, and for a folder that holds something else.
    """
    if not seeds:
        raise ValueError(f"there are no seeds to run {experiment.id} on; expected at least one, as seeds=(0, 1, 2)")
    config = experiment.scale("small").config if config is None else config
    settings, sources = experiment.settings(config), sources_sha256(experiment)
    kept = None if folder is None else Folder.opened(folder, experiment.id, settings)
    finished: dict[int, Finished] = {}
    for seed in seeds:
        known = kept.read(seed) if kept else None
        if known is None or not _is_current(known, sources):
            here = kept.of_seed(seed) if kept else None
            ran = _run(experiment, config, Trial(seed=seed, folder=here, report=report, sources=sources))
            known = ran if known is None else replace(ran, origin="measured anew")
            if kept:
                kept.write(seed, known)
        finished[seed] = known
        finish(seed, known)
    return Reproduction(experiment=experiment, settings=settings, finished=finished)


def finished_seeds(experiment: Experiment[Any], folder: Path) -> tuple[Reproduction, list[int]]:
    """Return what all finished seeds of a reproduction's folder came to, and those left out because the code has changed since.

    Raises ValueError for a folder of something else, and where no seed is finished.
    """
    mark, sources = read_object(folder / "experiment.json"), sources_sha256(experiment)
    kept = Folder.opened(folder, experiment.id, mark["settings"])
    known = {seed: found for seed in kept.seeds() if (found := kept.read(seed)) is not None}
    current = {seed: found for seed, found in known.items() if _is_current(found, sources)}
    if not current:
        raise ValueError(f"no seed in {folder} was finished by the code as it is now: cutaway reproduce {experiment.id}")
    whole = Reproduction(experiment=experiment, settings=mark["settings"], finished=current)
    return whole, sorted(known.keys() - current.keys())


def _is_current(finished: Finished, sources: str | None) -> bool:
    return sources is not None and finished.made_with.get("sources") == sources


def _run(experiment: Experiment[Any], config: Any, trial: Trial) -> Finished:
    started, made_with = time.perf_counter(), made_here(trial.sources)
    with torch.enable_grad(), torch.random.fork_rng():  # whatever mode the caller is in; the caller's randomness stays
        outcome = experiment.run(config, trial)
    arrays = {name: array.detach().cpu() for name, array in outcome.arrays.items()}
    time_s = time.perf_counter() - started + sum(each.earlier_s for each in trial.trainings.values())
    trainings = {name: each.to_dict() for name, each in trial.trainings.items()}
    return Finished(outcome=replace(outcome, arrays=arrays), time_s=time_s, made_with=made_with, trainings=trainings)


def check_memory(experiment: Experiment[Any], scale: str) -> None:
    """Raise ValueError, before anything is begun, for a scale that needs more memory than is free."""
    needed, free = experiment.scale(scale).memory_gib, free_memory_gib(torch.device("cpu"))
    if free is not None and needed > free:
        raise ValueError(f"{experiment.id} at scale {scale} needs about {needed:.1f} GiB of memory and {free:.1f} GiB are free")


def check_folder(experiment: Experiment[Any], scale: str, folder: Path) -> None:
    """Raise ValueError, before anything is begun, for a folder that cannot take or holds no whole reproduction at this scale."""
    Folder(folder).check(experiment.id, experiment.settings(experiment.scale(scale).config))


def parse_seeds(text: str, *, first: int | None = None) -> list[int]:
    """Return the seeds that a text names: `3` is that many from `first` on, 0 unless given, `0,4,7` are these.

    Raises ValueError for other texts, for a first seed below 0, and for a first one beside seeds that are named.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"seeds are {text!r}; expected how many, as 3, or which, as 0,4,7")
    numbers = [int(part[:_MOST_DIGITS]) for part in parts]
    if any(len(part) >= _MOST_DIGITS for part in parts) or (len(parts) == 1 and numbers[0] > _MOST_SEEDS):
        raise ValueError(
            f"seeds are {shortened(text)}; expected at most {_MOST_SEEDS:,} of them, each of fewer than {_MOST_DIGITS} digits"
        )
    if twice := [number for number in dict.fromkeys(numbers) if numbers.count(number) > 1]:
        raise ValueError(f"seeds are {text!r}; {twice[0]} is there more than once")
    if len(numbers) > 1:
        if first is not None:
            raise ValueError(f"seeds are {text!r} and the first seed is {first}: give which seeds, or the first and how many")
        return numbers
    if numbers[0] < 1:
        raise ValueError(f"seeds are {text!r}; expected at least 1")
    if first is not None and first < 0:
        raise ValueError(f"the first seed is {first}; expected a whole number of at least 0")
    return list(range(first or 0, (first or 0) + numbers[0]))
