"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cutaway.model import Transformer
from cutaway.ranks import Ranks
from cutaway.runs import Checkpoint, values_sha256
from cutaway.runtime import atomic_path, atomic_write, file_sha256
from cutaway.training.muon import Muon
from cutaway.training.parallel import is_sharded, weights_of
from cutaway.weights import matching, read_config, save_config, save_model, save_tensors, stream_tensors

__all__ = ["TrainState", "save_checkpoint", "load_checkpoint"]

_AVERAGES = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("momentum_buffer",)}
"""The running means that each optimizer keeps: of the gradients, and AdamW of their squares too."""


@dataclass
class TrainState:
    """What changes as training goes: the weights, their averages, the place in the data, and the steps done."""

    model: Transformer
    optimizers: tuple[torch.optim.Optimizer, ...]
    loader: dict[str, int]
    step: int = 0
    time_s: float = 0.0


def save_checkpoint(state: TrainState, folder: Path, ranks: Ranks | None = None) -> Path:
    """Write `step-000500` into `folder` and point `latest` at it; whatever interrupts, older checkpoints stay whole.

    The hashes in `state.json` tell a damaged file when it is read. However many processes write it, the files are those of one.
    """
    ranks, path = ranks or Ranks(), folder / f"step-{state.step:06d}"
    if not ranks.from_first(path.exists):
        with ranks.entered_by_first(partial(_new_folder, path)) as temporary:
            _write_tensors(state, temporary, ranks)
            if ranks.is_first:
                values = {"step": state.step, "time_s": state.time_s, "loader": state.loader}
                sha256 = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
                sha256["state.json"] = values_sha256(values)
                (temporary / "state.json").write_text(json.dumps({**values, "sha256": sha256}, indent=2))
    if ranks.is_first:
        atomic_write(folder / "latest", path.name + "\n")
    return path


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary


def _write_tensors(state: TrainState, folder: Path, ranks: Ranks) -> None:
    """Write weights, their averages and the configuration."""
    if not is_sharded(state.model):
        if ranks.is_first:
            save_model(state.model, folder)
            save_tensors(_averages(state), folder / "optimizer.safetensors")
        return
    from cutaway.training.sharded_files import write_sharded

    write_sharded(weights_of(state.model), folder / "model.safetensors", is_first=ranks.is_first)
    if averages := _averages(state):
        write_sharded(averages, folder / "optimizer.safetensors", is_first=ranks.is_first)
    elif ranks.is_first:
        save_tensors({}, folder / "optimizer.safetensors")
    if ranks.is_first:
        save_config(state.model.config, folder)


def load_checkpoint(path: Path, state: TrainState, ranks: Ranks | None = None) -> None:
    """Put a checkpoint's values into `state`; raises ValueError for a damaged one or one of another configuration.

    It may be written and read by any number of processes, with the model whole in each or shared out.
    """
    values = (ranks or Ranks()).from_first(Checkpoint(path).verify)
    config = read_config(path / "config.json")
    if config != state.model.config:
        ours, theirs = state.model.config.to_dict(), config.to_dict()
        differing = ", ".join(f"{name} {theirs[name]} (not {ours[name]})" for name in ours if ours[name] != theirs[name])
        raise ValueError(f"{path} belongs to another configuration: it has {differing}")
    weights = weights_of(state.model)
    if values["step"]:
        for optimizer in state.optimizers:
            _make_room(optimizer, step=float(values["step"]))
    for file, tensors in {"model.safetensors": weights, "optimizer.safetensors": _averages(state)}.items():
        if tensors:
            _fill(path / file, tensors, is_shared_out=is_sharded(state.model))
    state.step, state.time_s, state.loader = values["step"], values["time_s"], values["loader"]


def _fill(path: Path, tensors: Mapping[str, Tensor], *, is_shared_out: bool) -> None:
    """Fill tensors with what a file holds under their names."""
    with torch.no_grad():
        if is_shared_out:
            from cutaway.training.sharded_files import read_sharded

            read_sharded(path.parent, tensors)
            return
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        for name, tensor in matching(stream_tensors(path), shapes, source=str(path)):
            tensors[name].copy_(tensor)


def _make_room(optimizer: torch.optim.Optimizer, *, step: float) -> None:
    """Give each weight averages, to be filled, and AdamW the number of steps that they are of."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            averages = {name: torch.zeros_like(weight, requires_grad=False) for name in _AVERAGES[type(optimizer)]}
            count = {"step": torch.tensor(step, device=weight.device)} if isinstance(optimizer, torch.optim.AdamW) else {}
            optimizer.state[weight] |= {**count, **averages}


def _averages(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{name}.{average}": optimizer.state[weight][average].contiguous()
        for name, weight in weights_of(state.model).items()
        for optimizer in state.optimizers
        if weight in optimizer.state
        for average in _AVERAGES[type(optimizer)]
    }
