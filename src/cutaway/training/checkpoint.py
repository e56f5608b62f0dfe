"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cutaway.model import Transformer
from cutaway.runs import Checkpoint, values_sha256
from cutaway.runtime import atomic_path, atomic_write, file_sha256, remove_path
from cutaway.weights import matching, read_config, save_model, save_tensors, stream_tensors

__all__ = ["TrainState", "save_checkpoint", "load_checkpoint", "clear_unfinished"]

_AVERAGES = ("exp_avg", "exp_avg_sq")  # AdamW's running means of gradient and squared gradient


@dataclass
class TrainState:
    """What changes as training goes: the weights, their averages, the place in the data, and the steps done."""

    model: Transformer
    optimizer: torch.optim.AdamW
    loader: dict[str, int]
    step: int = 0
    time_s: float = 0.0


def save_checkpoint(state: TrainState, folder: Path) -> Path:
    """Write `step-000500` into `folder` and point `latest` at it; whatever interrupts, older checkpoints stay whole.

    The hashes in `state.json` tell a damaged file when it is read.
    """
    path = folder / f"step-{state.step:06d}"
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.mkdir()
            save_model(state.model, temporary)
            save_tensors(_averages(state), temporary / "optimizer.safetensors")
            values = {"step": state.step, "time_s": state.time_s, "loader": state.loader}
            sha256 = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
            sha256["state.json"] = values_sha256(values)
            (temporary / "state.json").write_text(json.dumps({**values, "sha256": sha256}, indent=2))
    atomic_write(folder / "latest", path.name + "\n")
    return path


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Put a checkpoint's values into `state`; raises ValueError for a damaged one or one of another configuration."""
    values = Checkpoint(path).verify()
    config = read_config(path / "config.json")
    if config != state.model.config:
        ours, theirs = state.model.config.to_dict(), config.to_dict()
        differing = ", ".join(f"{name} {theirs[name]} (not {ours[name]})" for name in ours if ours[name] != theirs[name])
        raise ValueError(f"{path} belongs to another configuration: it has {differing}")
    weights = dict(state.model.named_parameters())  # a tied unembedding is not among them
    for name, tensor in _read(path / "model.safetensors", {name: weight.shape for name, weight in weights.items()}):
        weights[name].data.copy_(tensor)
    if values["step"]:
        expected = {f"{name}.{average}": weight.shape for name, weight in weights.items() for average in _AVERAGES}
        for full_name, tensor in _read(path / "optimizer.safetensors", expected):
            name, _, average = full_name.rpartition(".")
            weight = weights[name]
            step = torch.tensor(float(values["step"]), device=weight.device)
            state.optimizer.state[weight] |= {"step": step, average: tensor.to(weight.device)}
    state.step, state.time_s, state.loader = values["step"], values["time_s"], values["loader"]


def _read(path: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    return matching(stream_tensors(path), shapes, source=str(path))


def clear_unfinished(folder: Path) -> None:
    """Remove what a writer that was killed left in the checkpoints' folder."""
    for rest in folder.glob(".*.tmp"):
        remove_path(rest)


def _averages(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{name}.{average}": state.optimizer.state[weight][average].contiguous()
        for name, weight in state.model.named_parameters()
        for average in _AVERAGES
        if weight in state.optimizer.state
    }
