"""Run directories as they lie on the disk: reading needs no torch, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cutaway.config import ModelConfig
from cutaway.runtime import file_sha256
from cutaway.values import read_object, shortened

__all__ = [
    "Run",
    "Checkpoint",
    "Metrics",
    "LOGGED",
    "read_metrics",
    "parse_record",
    "runs_root",
    "list_runs",
    "latest_run",
    "is_run",
    "values_sha256",
]

LOGGED = frozenset(
    "step tokens loss lr grad_norm tokens_per_s flops_per_s share_of_peak memory_gib time_s val_loss sample".split()  # noqa: SIM905
)
"""What training itself logs; other names in metrics.jsonl are what was watched."""

_STEP_FOLDER = re.compile(r"step-(\d+)")


def runs_root() -> Path:
    """Return the folder that runs are kept in: $CUTAWAY_RUNS, or ./runs. It need not exist."""
    return Path(os.environ.get("CUTAWAY_RUNS") or "runs").expanduser()


@dataclass(frozen=True)
class Checkpoint:
    """The model after `step` steps: a folder with model.safetensors and config.json."""

    path: Path
    step: int | None = None

    @classmethod
    def at(cls, path: Path) -> Checkpoint:
        """Return the checkpoint in a folder; raises ValueError where there is none."""
        missing = [name for name in ("config.json", "model.safetensors") if not (path / name).is_file()]
        if missing:
            raise ValueError(f"{path} is no checkpoint: it has no {' and no '.join(missing)}")
        match = _STEP_FOLDER.fullmatch(path.name)
        return cls(path, int(match[1]) if match else None)

    @property
    def name(self) -> str:
        """The folder's name, as `step-000500`."""
        return self.path.name

    @cached_property
    def model_config(self) -> ModelConfig:
        """The shape of the model; raises ValueError for a file that is missing or does not hold one."""
        file = self.path / "config.json"
        if not file.is_file():
            raise self._wrong(file, "is missing")
        return _model_config(read_object(file), file)

    @property
    def n_bytes(self) -> int:
        """The size of all its files in bytes."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def written(self) -> float:
        """When it was written, in seconds since 1970."""
        return (self.path / "model.safetensors").stat().st_mtime

    @property
    def run(self) -> Run | None:
        """The run that it belongs to, None for one that lies alone."""
        folder = self.path.parent.parent
        return Run(folder) if self.path.parent.name == "checkpoints" and is_run(folder) else None

    def verify(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return `state.json` after holding it and the files of these names, or else all of them, against the hashes in it.

        Raises ValueError for a file that is damaged or missing. A folder without `state.json` that is not of a run is taken as it is.
        """
        if not (self.path / "state.json").is_file() and self.run is None:
            return {}
        if not (self.path / "state.json").is_file():
            raise self._wrong(self.path / "state.json", "is missing")
        state = read_object(self.path / "state.json")
        recorded = state.pop("sha256", None)
        recorded = recorded if isinstance(recorded, dict) else {"state.json": None}
        for name in recorded if names is None else ("state.json", *names):
            file = self.path / name
            if not file.is_file():
                raise self._wrong(file, "is missing")
            if recorded.get(name) != (values_sha256(state) if name == "state.json" else file_sha256(file)):
                raise self._wrong(file, "is damaged (its sha256 is not the one recorded when it was written)")
        return state

    def _wrong(self, file: Path, what: str) -> ValueError:
        return ValueError(f"{file} {what}: use another checkpoint, or remove {self.name} to go on from the one before")

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return each tensor's dtype and shape from the header of the file; raises ValueError for a damaged one."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "model.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); use another checkpoint, or fetch it again") from None


@dataclass(frozen=True)
class Metrics:
    """What was logged: one record a step, in the order of steps, and a sentence about what could not be read, if any."""

    records: tuple[dict[str, Any], ...]
    note: str | None = None

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a number was logged, and its values there; both empty for one that never was."""
        points = [(record["step"], record[name]) for record in self.records if _is_number(record.get(name))]
        return [step for step, _ in points], [float(value) for _, value in points]

    def watched(self) -> list[str]:
        """Return the names of what was watched, in the order in which they came up."""
        return [name for name in dict.fromkeys(name for record in self.records for name in record) if name not in LOGGED]

    def last(self, name: str) -> Any:
        """Return the value last logged under a name, None when there is none."""
        return next((record[name] for record in reversed(self.records) if record.get(name) is not None), None)


@dataclass(frozen=True)
class Run:
    """A run directory. Raises FileNotFoundError where there is no folder, ValueError where the folder is no run."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.exists():
            raise FileNotFoundError(f"there is no run {self.path}{_others(self.path)}")
        if not is_run(self.path):
            raise ValueError(
                f"{self.path} is no run: expected a folder with the config.json and checkpoints that `cutaway train` writes"
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @cached_property
    def model_config(self) -> ModelConfig:
        """The shape of the model that is trained; raises ValueError for a configuration that does not hold together."""
        return _model_config(self._config["model"], self.path / "config.json")

    @property
    def recipe(self) -> dict[str, Any]:
        """What `TrainConfig` was built from, without the model."""
        recipe: dict[str, Any] = self._config["train"]
        return recipe

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is known about its making: versions, seed, device, data, tokenizer, arguments; empty where it was not kept.

        Raises ValueError for a file that was changed or damaged.
        """
        path = self.path / "manifest.json"
        manifest = read_object(path) if path.is_file() else {}
        for part in ("data", "tokenizer"):
            if not isinstance(manifest.get(part, {}), dict):
                raise ValueError(f"{path}: {part} is {shortened(manifest[part])}; expected a JSON object: bring it back")  # noqa: TRY004 (data)
        return manifest

    @property
    def text(self) -> str | None:
        """What the text is called that it learns from, as the manifest has it; None where it does not say."""
        text = self.manifest.get("data", {}).get("source")
        return text if isinstance(text, str) else None

    def file(self, name: str) -> Path:
        """Return a file that every run has; raises ValueError for one that this run has lost."""
        if not (self.path / name).is_file():
            raise ValueError(f"{self.path} has lost its {name}: bring it back")
        return self.path / name

    def metrics(self) -> Metrics:
        """Return what was logged so far."""
        return read_metrics(self.path / "metrics.jsonl")

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints in the order of their steps; what is damaged in one, reading it says."""
        folders = [path.parent for path in self.path.glob("checkpoints/*/model.safetensors")]
        found = [Checkpoint(path, int(match[1])) for path in folders if (match := _STEP_FOLDER.fullmatch(path.name))]
        return sorted(found, key=lambda checkpoint: checkpoint.step or 0)

    def latest_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, None before the first."""
        return next(reversed(self.checkpoints()), None)

    def checkpoint_to_go_on_from(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, None before the first; raises ValueError for a later one without its weights."""
        newest = self.latest_checkpoint()
        for path in sorted(self.path.glob("checkpoints/step-*")):
            match = _STEP_FOLDER.fullmatch(path.name)
            if match and path.is_dir() and (newest is None or int(match[1]) > (newest.step or 0)):
                raise Checkpoint(path, int(match[1]))._wrong(path / "model.safetensors", "is missing")
        return newest

    @property
    def last_change(self) -> float:
        """When something was last logged, or else when the run began, in seconds since 1970."""
        files = [self.path / name for name in ("metrics.jsonl", "manifest.json", "config.json")]
        return max(file.stat().st_mtime for file in files if file.is_file())

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_object(self.path / "config.json")


def read_metrics(path: Path) -> Metrics:
    """Read metrics.jsonl, which a run that was killed may have left with half a line; an absent file holds nothing.

    Lines that are not whole are left out and noted. A step logged twice, by a run that went on from an earlier checkpoint, counts as
    logged last.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return Metrics(())
    by_step: dict[int, dict[str, Any]] = {}
    damaged = []
    for number, line in enumerate(lines, start=1):
        if (record := parse_record(line)) is not None:
            by_step[record["step"]] = by_step.get(record["step"], {}) | record
        elif line.strip():
            damaged.append(number)
    return Metrics(tuple(by_step[step] for step in sorted(by_step)), _damage(path, damaged, n_lines=len(lines)))


def list_runs(root: Path | None = None) -> list[Run]:
    """Return the runs in a folder, `runs_root()` unless given, the one that changed last at the end."""
    folders = [path for path in (root or runs_root()).glob("*") if is_run(path)]
    return sorted(map(Run, folders), key=lambda run: run.last_change)


def latest_run(root: Path | None = None, *, has_checkpoint: bool = True) -> Run:
    """Return the run that changed last of those with a checkpoint, or of all; raises FileNotFoundError when there is none."""
    runs = [run for run in list_runs(root) if run.latest_checkpoint() or not has_checkpoint]
    if not runs:
        what = "run with a checkpoint" if list_runs(root) else "run"
        raise FileNotFoundError(
            f"there is no {what} in {root or runs_root()} yet: make one with `cutaway train`, or name the folder of one"
        )
    return runs[-1]


def is_run(path: Path) -> bool:
    """Return whether a folder has a configuration of a model and of its training."""
    try:
        config = read_object(path / "config.json")
    except (ValueError, OSError):
        return False
    return isinstance(config.get("model"), Mapping) and isinstance(config.get("train"), Mapping)


def values_sha256(values: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON values, however they are laid out in a file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _others(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() and path.parent != Path() else runs_root()
    names = [run.name for run in list_runs(folder)][-5:]
    return f"; {folder} has {', '.join(reversed(names))}" if names else ""


def _model_config(values: dict[str, Any], path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_record(line: str) -> dict[str, Any] | None:
    """Return the record in a line of metrics.jsonl, None for a line that holds no whole one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _damage(path: Path, damaged: Sequence[int], *, n_lines: int) -> str | None:
    if not damaged:
        return None
    if list(damaged) == [n_lines]:
        return f"the last line of {path.name} is cut off and left out: the run was stopped while writing it, or writes it now"
    return f"{len(damaged)} line(s) of {path.name} cannot be read and are left out, the first in line {damaged[0]}"
