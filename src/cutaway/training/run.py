"""Start a run, or go on with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.runs import Run
from cutaway.runtime import pick_device, pick_dtype
from cutaway.tokenizers import load_tokenizer
from cutaway.training.config import TrainConfig
from cutaway.training.observers import Observer, resolve_observers
from cutaway.training.setup import new_run_folder, prepare, write_run
from cutaway.training.trainer import run_training

__all__ = ["train", "resume"]

_MAY_CHANGE = {
    "n_steps", "device", "compile", "validate_every", "sample_every", "save_every", "log_every", "tensorboard", "watch",
}  # fmt: skip
"""What a resumed run may do differently: nothing that decides what a step does, but for the schedule's length."""


def train(config: TrainConfig | str, *, observers: Mapping[str, Observer] | None = None, quiet: bool = False) -> Path:
    """Train a model from new weights, `config` being a configuration or a preset's name, and return its run directory.

    `observers` are functions of step and model, beside those that `config.watch` names, whose values are logged at each validation.
    Raises ValueError, before anything is written, for a configuration that cannot work.
    """
    config = TrainConfig.preset(config) if isinstance(config, str) else config
    device = pick_device(config.device)
    config = config.replace(dtype=pick_dtype(config.dtype, device))
    resolve_observers(config.watch)
    folder = new_run_folder(config.name, config.out)
    materials = prepare(config)
    write_run(folder, materials, device)
    run_training(materials, folder, observers=observers, quiet=quiet)
    return folder


def resume(folder: Path, *, observers: Mapping[str, Observer] | None = None, quiet: bool = False, **changes: Any) -> Path:
    """Go on with a run from its newest checkpoint; on a CPU the result is bit for bit that of a run never interrupted.

    Raises ValueError for a folder that is no run, for text that is not what the run began with, and for `changes` that would make it
    another run.
    """
    if refused := sorted(changes.keys() - _MAY_CHANGE):
        raise ValueError(f"a resumed run keeps its {', '.join(refused)}; it may change {', '.join(sorted(_MAY_CHANGE))}")
    run = Run(folder)
    config = TrainConfig.from_dict({**run.recipe, "model": run.model_config, **changes})
    materials = prepare(config, tokenizer=load_tokenizer(folder / "tokenizer.json"))
    if materials.corpus.sha256 != run.manifest["data"]["sha256"]:
        raise ValueError(
            f"{config.data} is not the text that {folder} began with (its sha256 differs): bring it back, or start a new run"
        )
    run_training(materials, folder, observers=observers, quiet=quiet)
    return folder
