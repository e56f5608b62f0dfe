"""Start a run, or go on with one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cutaway.ranks import Ranks, joined_ranks
from cutaway.runs import Run
from cutaway.runtime import alone_in, pick_device, pick_dtype
from cutaway.tokenizers import load_tokenizer, tokenizer_hash
from cutaway.training.arriving import arriving_shards
from cutaway.training.config import LOOKING, TrainConfig
from cutaway.training.log import check_tensorboard
from cutaway.training.observers import WEIGHTS, Observer, Watchable
from cutaway.training.setup import TRAINING_IN, Materials, claimed_folder, prepare, write_config, write_run
from cutaway.training.trainer import run_training

__all__ = ["train", "resume", "check_surroundings"]

_MAY_CHANGE = LOOKING | {"n_steps", "device", "compile", "parallel"}
"""What a resumed run may do differently: nothing of the recipe, but for the schedule's length."""


def train(
    config: TrainConfig | str,
    *,
    observers: Mapping[str, Observer] | None = None,
    watchable: Watchable = WEIGHTS,
    quiet: bool = False,
) -> Path:
    """Train a model from new weights, `config` being a configuration or a preset's name, and return its run directory.

    `observers` are functions of step and model, beside those that `config.watch` names of what is `watchable`; `config.watch_every`
    says when they are asked. Raises ValueError, before anything is written, for a configuration that cannot work. What fails before
    its first checkpoint leaves no run behind.
    """
    config = TrainConfig.preset(config) if isinstance(config, str) else config
    with joined_ranks(config.device) as ranks:
        check_surroundings(config, ranks)
        watchable.check(config.watch)
        device = pick_device(config.device)
        config = config.replace(dtype=pick_dtype(config.dtype, device))
        with (
            ranks.entered_by_first(partial(claimed_folder, config.name, config.out)) as folder,
            ranks.entered_by_first(partial(arriving_shards, config)) as shards,
        ):
            materials = ranks.one_first(partial(prepare, config, shards=shards))
            watching = {**watchable.make(config.watch, materials), **(observers or {})}
            if ranks.is_first:
                write_run(folder, materials, device)
            ranks.wait()
            run_training(materials, folder, observers=watching, ranks=ranks, quiet=quiet)
    return folder


def resume(
    folder: str | Path,
    *,
    observers: Mapping[str, Observer] | None = None,
    watchable: Watchable = WEIGHTS,
    quiet: bool = False,
    **changes: Any,
) -> Path:
    """Go on with a run from its newest checkpoint; on a CPU the result is bit for bit that of a run never interrupted,
    given the same torch, the same number of threads and of processes, and the same `compile`.

    `changes` become part of the run's configuration. Raises ValueError for a folder that is no run, for text or a tokenizer that are
    not what the run began with, and for `changes` that would make it another run.
    """
    if refused := sorted(changes.keys() - _MAY_CHANGE):
        raise ValueError(f"a resumed run keeps its {', '.join(refused)}; it may change {', '.join(sorted(_MAY_CHANGE))}")
    run = Run(Path(folder))
    config = TrainConfig.of_run(run).replace(**changes)
    with joined_ranks(config.device) as ranks:
        check_surroundings(config, ranks)
        _check_watched(run, config, watchable)
        newest = run.checkpoint_to_go_on_from()
        if newest and (newest.step or 0) > config.n_steps:
            raise ValueError(
                f"{run.path} has done {newest.step} steps already; n_steps is {config.n_steps}: give that many or more"
            )
        begins = newest is None and config.from_model is not None  # stopped before its first checkpoint
        tokenizer = None if begins else load_tokenizer(run.file("tokenizer.json"))
        with ranks.entered_by_first(partial(arriving_shards, config)) as shards:
            materials = ranks.one_first(partial(prepare, config, tokenizer=tokenizer, shards=shards))
            _check_origin(run, materials)
            watching = {**watchable.make(config.watch, materials), **(observers or {})}
            ranks.wait()  # until all have read what the first may write now
            if changes and ranks.is_first:
                write_config(run.path, materials.config)
            with ranks.entered_by_first(partial(alone_in, run.path, TRAINING_IN)):
                run_training(materials, run.path, observers=watching, ranks=ranks, quiet=quiet)
    return run.path


def check_surroundings(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ValueError, before anything is written, for what this machine, this program or this job does not have."""
    pick_device(config.device)
    ranks.rows(config.batch_size)
    if ranks.n > 1 and config.parallel == "fsdp2":
        if config.optimizer == "muon":
            raise ValueError(
                "muon turns whole matrices, of which fsdp2 gives each process a part: give --parallel ddp, or --optimizer adamw"
            )
        from cutaway.training.sharded_files import check_sharded_files

        check_sharded_files()
    if config.tensorboard:
        check_tensorboard()


def _check_watched(run: Run, config: TrainConfig, watchable: Watchable) -> None:
    """Raise ValueError for a name that cannot be watched, with the file where it is the run's own."""
    try:
        watchable.check(config.watch)
    except ValueError as error:
        if list(config.watch) != run.recipe.get("watch"):
            raise
        raise ValueError(f"{run.file('config.json')}: {error}") from None


def _check_origin(run: Run, materials: Materials) -> None:
    """Raise ValueError unless text and tokenizer are those that the manifest names."""
    began = {part: run.manifest.get(part, {}).get("sha256") for part in ("data", "tokenizer")}
    if None in began.values():
        raise ValueError(
            f"{run.path / 'manifest.json'} does not say what the run began with: it was lost or changed; bring it back"
        )
    if materials.corpus.sha256 != began["data"]:
        raise ValueError(
            f"{materials.config.data} is not the text that {run.path} began with (its sha256 differs): bring it back, "
            "or start a new run"
        )
    if tokenizer_hash(materials.tokenizer) != began["tokenizer"]:
        raise ValueError(
            f"{run.path / 'tokenizer.json'} is not the tokenizer that the run began with (its sha256 differs): bring it back, "
            "or start a new run"
        )
