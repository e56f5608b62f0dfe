"""The folder of a reproduction: what it is of, and what each seed came to."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cutaway.experiments.frame.check import Check, number_or_name
from cutaway.experiments.frame.experiment import Outcome
from cutaway.runtime import atomic_path, atomic_write, describe_device, pick_device, remove_path
from cutaway.values import read_object, shortened
from cutaway.weights import save_tensors

__all__ = ["Finished", "Folder", "made_here"]

_MARK = "experiment.json"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What one seed came to, and how long it took, with the training that was taken over from before."""

    outcome: Outcome
    time_s: float
    made_with: Mapping[str, Any]
    """Versions, commit, device, threads, and a hash of the experiment's sources."""
    trainings: Mapping[str, Mapping[str, Any]]
    """By the name of a module the recipe that it was trained by, and the hash of the code that trained it."""
    origin: Literal["run", "measured anew", "read"] = "run"
    """Whether it was run now, was measured anew now because the experiment's code had changed, or had been finished before."""

    @property
    def has_older_weights(self) -> bool:
        """Whether other code than that which measured trained a module."""
        return any(each["sources"] != self.made_with["sources"] for each in self.trainings.values())


@dataclass(frozen=True)
class Folder:
    """A folder that holds one experiment at one configuration, a subfolder a seed; made by `Folder.opened`."""

    path: Path

    @classmethod
    def opened(cls, path: Path, experiment_id: str, settings: Mapping[str, Any]) -> Folder:
        """Return a new folder, or the one that holds this experiment at these settings.

        Raises ValueError, before anything is written, for a file, and for a folder that holds something else.
        """
        folder, mark = cls(path), {"experiment": experiment_id, "settings": dict(settings)}
        folder.check(experiment_id, settings)
        if not (path / _MARK).is_file():
            atomic_write(path / _MARK, json.dumps(mark, indent=2))
        return folder

    def check(self, experiment_id: str, settings: Mapping[str, Any]) -> None:
        """Raise ValueError for a file, for a folder that holds something else, and for finished seeds that were damaged."""
        path, mark = self.path, {"experiment": experiment_id, "settings": dict(settings)}
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; expected a folder for the reproduction")
        if (path / _MARK).is_file():
            _check_same(path, read_object(path / _MARK), mark)
        elif path.is_dir() and (others := sorted(each.name for each in path.iterdir() if not each.name.startswith("."))):
            raise ValueError(f"{path} holds {others[0]} and is no reproduction: give a new or an empty folder with --out")
        for seed in self.seeds():
            self.read(seed)

    def seeds(self) -> list[int]:
        """Return the seeds that are finished, by whatever code."""
        names = [file.parent.name.removeprefix("seed-") for file in self.path.glob("seed-*/result.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def of_seed(self, seed: int) -> Path:
        """Return the subfolder of a seed."""
        folder = self.path / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        return folder

    def read(self, seed: int) -> Finished | None:
        """Return what a seed came to, None where it is not finished; raises ValueError for files that were damaged."""
        folder = self.path / f"seed-{seed}"
        if not (folder / "result.json").is_file():
            return None
        try:
            values = read_object(folder / "result.json")
            checks = tuple(map(Check.from_dict, values["checks"]))
            arrays = load_file(folder / "arrays.safetensors") if values["arrays"] else {}
            numbers = {name: float(value) for name, value in values["numbers"].items()}
            texts = {name: tuple(map(str, rows)) for name, rows in values["texts"].items()}
            outcome = Outcome(checks=checks, numbers=numbers, arrays=arrays, texts=texts)
            made_with, trainings = dict(values["made_with"]), dict(values["trainings"])
            return Finished(
                outcome=outcome, time_s=float(values["time_s"]), made_with=made_with, trainings=trainings, origin="read"
            )
        except (KeyError, TypeError, AttributeError, OSError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"{folder} is damaged: remove its result.json to measure anew, or all of it to train anew ({error})"
            ) from None

    def write(self, seed: int, finished: Finished) -> None:
        """Keep what a seed came to; it counts once its result.json is there."""
        folder, outcome = self.of_seed(seed), finished.outcome
        if outcome.arrays:
            with atomic_path(folder / "arrays.safetensors") as temporary:
                save_tensors({name: array.detach().contiguous() for name, array in outcome.arrays.items()}, temporary)
        for name, model in outcome.models.items():
            remove_path(folder / name)  # of a seed that was stopped here before
            model.save(folder / name)
        values = {
            "seed": seed,
            "passed": outcome.passed,
            "checks": [check.to_dict() for check in outcome.checks],
            "numbers": {name: number_or_name(value) for name, value in outcome.numbers.items()},
            "arrays": sorted(outcome.arrays),
            "texts": {name: list(rows) for name, rows in outcome.texts.items()},
            "models": sorted(outcome.models),
            "time_s": finished.time_s,
            "made_with": dict(finished.made_with),
            "trainings": dict(finished.trainings),
        }
        atomic_write(folder / "result.json", json.dumps(values, indent=2, allow_nan=False))


def made_here(sources: str | None) -> dict[str, Any]:
    """Return what a number depends on beside its seed: versions, commit, device, threads, the hash of the experiment's sources."""
    return {
        "sources": sources,
        "cutaway": version("cutaway"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe_device(pick_device("cpu")),
        "n_threads": torch.get_num_threads(),
    }


@cache
def _commit() -> str | None:
    """Return the commit of a checkout of cutaway, with a + where its files differ from it; None for an installed package."""
    folder = Path(__file__).parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=folder, check=True, capture_output=True)
        commit, changed = (
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)


def _check_same(path: Path, there: Mapping[str, Any], mark: Mapping[str, Any]) -> None:
    """Raise ValueError where a folder's mark is of another experiment or other settings."""
    if there.get("experiment") != mark["experiment"]:
        raise ValueError(f"{path} holds the experiment {shortened(there.get('experiment'))}: give another folder with --out")
    known = there.get("settings")
    known = known if isinstance(known, Mapping) else {}
    if differing := [name for name in mark["settings"].keys() | known.keys() if known.get(name) != mark["settings"].get(name)]:
        said = ", ".join(
            f"{name} {shortened(known.get(name))}, not {shortened(mark['settings'].get(name))}" for name in sorted(differing)
        )
        raise ValueError(f"{path} holds {mark['experiment']} at other settings ({said}): give another folder with --out")
