"""Run directories made by hand, as `cutaway train` would leave them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cutaway.config import ModelConfig

TRAIN = {"name": "tiny", "data": "stdlib", "n_steps": 100, "validate_every": 25}


def make_run(folder: Path, *, n_steps: int = 100, checkpoint_steps: tuple[int, ...] = (50, 100), **model: Any) -> Path:
    """Write a whole run of a tiny model: losses fall from 4 as an exponential, validation lies 0.1 above."""
    sizes = {"d_vocab": 11, "n_ctx": 8, "n_layers": 2, "n_heads": 2, "d_model": 8} | model
    config = ModelConfig(**sizes).to_dict()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model": config, "train": TRAIN}))
    manifest = {
        "started": "2026-01-02T03:04:05+00:00",
        "device": "CPU, 2 threads",
        "tokenizer": {"kind": "char", "d_vocab": 11},
        "data": {"source": "stdlib"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record(step)) + "\n" for step in range(5, n_steps + 1, 5)))
    for step in checkpoint_steps:
        make_checkpoint(folder / "checkpoints" / f"step-{step:06d}", config)
    return folder


def make_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """Write a checkpoint with one tensor in it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"embed.W_E": np.zeros((11, 8), np.float32)}, folder / "model.safetensors")
    return folder


def record(step: int) -> dict[str, float]:
    """Return what is logged after a step."""
    loss = 1.0 + 3 * math.exp(-step / 30)
    values = {"step": step, "tokens": step * 96, "loss": loss, "tokens_per_s": 9600.0, "time_s": step / 100}
    return values | ({"val_loss": loss + 0.1} if step % 25 == 0 else {})
