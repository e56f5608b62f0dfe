"""A recipe that trains in a blink, on a text made here, and what tests ask of the runs it leaves."""

from __future__ import annotations

import hashlib
import random
import shlex
from pathlib import Path
from typing import Any

from cutaway.config import ModelConfig
from cutaway.runs import Run
from cutaway.training import TrainConfig
from cutaway.weights import stream_tensors

WORDS = shlex.split("the a king queen fool speaks laughs of to his her crown night day and never always sees loves")

OPTIONS = shlex.split(
    "--n-layers 1 --n-heads 2 --d-model 16 --n-ctx 16 --batch-size 4 --n-accumulate 2 --dropout 0.1 --n-warmup-steps 2 --n-steps 12 "
    "--validate-every 4 --sample-every 6 --save-every 3 --log-every 1 --device cpu --dtype float32 --no-compile"
)
"""The recipe of `tiny_config` as options of `cutaway train`, which takes the rest from shakespeare-char."""


def write_text(folder: Path, *, seed: int = 0, n_words: int = 900, name: str = "play.txt") -> Path:
    """Write a text of made-up lines and return its path."""
    draw = random.Random(seed)
    words = [draw.choice(WORDS) + draw.choice(["", "", "", ",", ".\n"]) for _ in range(n_words)]
    path = folder / name
    path.write_text(" ".join(words))
    return path


def tiny_config(data: Path, **changes: Any) -> TrainConfig:
    """Return the recipe, with dropout and accumulation, so that what could go wrong in them would."""
    shape = {"d_vocab": 1, "n_ctx": 16, "n_layers": 1, "n_heads": 2, "d_model": 16, "dropout": 0.1}
    shape |= {name: changes.pop(name) for name in list(changes) if name in ModelConfig.__dataclass_fields__}
    recipe = {
        "n_steps": 12,
        "batch_size": 4,
        "n_accumulate": 2,
        "n_warmup_steps": 2,
        "validate_every": 4,
        "sample_every": 6,
        "save_every": 3,
        "log_every": 1,
        "device": "cpu",
        "dtype": "float32",
        "compile": False,
    }
    return TrainConfig(model=ModelConfig(**shape), data=str(data), **{**recipe, **changes})


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def learned(run: Path) -> dict[str, Any]:
    """Return what training must reproduce bit for bit: the last weights and averages, as bytes, and what was logged of them."""
    newest = Run(run).latest_checkpoint()
    assert newest is not None
    tensors = {
        f"{name}: {key}": (tensor.shape, tensor.numpy().tobytes())
        for name in ("model.safetensors", "optimizer.safetensors")
        for key, tensor in stream_tensors(newest.path / name)
    }
    names = ("step", "tokens", "loss", "lr", "grad_norm", "val_loss", "sample")
    logged = [{name: record.get(name) for name in names} for record in Run(run).metrics().records]
    return {"step": newest.step, "logged": logged, **tensors}
