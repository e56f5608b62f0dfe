"""`cutaway train`: a model from a preset, or a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutaway.cli.command import options_of
from cutaway.config import ModelConfig
from cutaway.report import stdout_console
from cutaway.training.config import TrainConfig

__all__ = ["train"]


@options_of(TrainConfig, group="Recipe", omit=("model", "name"))
@options_of(ModelConfig, group="Model", omit=("d_vocab", "d_vocab_out"))
def train(preset: str | None = None, /, *, resume: bool = False, **changes: Any) -> None:
    """Train a model from new weights, or go on with a run that was stopped.

    A run is a folder under ./runs with everything in it: configuration, tokenizer, metrics, checkpoints. Ctrl-C saves first.

    Args:
        preset: a recipe (shakespeare-char unless given, stdlib, attn-only-1l, attn-only-2l); with --resume a run's folder
        resume: go on with the latest run, or with the one named, from its newest checkpoint

    Examples:
        cutaway train                                      a baby GPT on tiny Shakespeare
        cutaway train --data notes.txt --n-layers 2        any text, another shape
        cutaway train attn-only-2l --tokenizer bpe-1024
        cutaway train --resume

    In Python:
        cutaway.train("shakespeare-char")
        cutaway.train(cutaway.TrainConfig.preset("shakespeare-char", data="notes.txt", n_layers=2))
    """
    from cutaway import training

    folder = training.resume(_run(preset), **changes) if resume else training.train(_config(preset, changes))
    console = stdout_console()
    console.print(f"\nThe run is in [bold]{folder}[/]. Next:", soft_wrap=True)  # a path is copied whole, however long
    console.print(f"  cutaway generate --model {folder}\n  cutaway inspect {folder}", soft_wrap=True)


def _config(preset: str | None, changes: dict[str, Any]) -> TrainConfig:
    return TrainConfig.preset(preset or "shakespeare-char", **changes)


def _run(name: str | None) -> Path:
    from cutaway.runs import Run, latest_run, runs_root

    if name is None:
        return latest_run().path
    named = runs_root() / name
    return Run(named if named.is_dir() and not Path(name).is_dir() else Path(name)).path
