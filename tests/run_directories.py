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


def make_watched_run(folder: Path) -> Path:
    """Write a run of which one head rises from 0.05 to 0.81 in a logistic, a tenth to nine tenths of it from step 600 to 1,000."""
    make_run(folder, n_steps=0)
    records = []
    for step in range(0, 2001, 50):
        risen = 1 / (1 + math.exp(-(step - 800) * 2 * math.log(9) / 400))
        heads = {"L0H0": 0.04, "L0H1": 0.05, "L1H0": 0.06, "L1H1": 0.05 + 0.76 * risen}
        records.append(
            {"step": step, "loss": 4 - risen, "val_loss": 4.1 - risen}
            | {f"induction.{label}": value for label, value in heads.items()}
            | {"induction.best": max(heads.values()), "previous_token.L0H0": 0.2, "previous_token.best": 0.2}
            | {"icl.score": -0.4 * risen, "icl.early": 3.0, "icl.late": 3.0 - 0.4 * risen, "mine": step * 1e-3}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
