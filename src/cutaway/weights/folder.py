"""A model as a folder: `config.json` and `model.safetensors` in cutaway's own names."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.runtime import atomic_path, atomic_write
from cutaway.values import read_object
from cutaway.weights.source import assemble

__all__ = ["save_model", "load_model", "save_tensors", "save_config", "read_config", "stream_tensors"]


def save_model(model: Transformer, folder: Path) -> None:
    """Write the configuration and the weights; a tied unembedding is the embedding and is not written twice."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        del tensors["unembed.W_U.weight"]
    with atomic_path(folder / "model.safetensors") as temporary:
        save_tensors(tensors, temporary)
    save_config(model.config, folder)


def save_config(config: ModelConfig, folder: Path) -> None:
    """Write a model's configuration, as `read_config` reads it."""
    atomic_write(folder / "config.json", json.dumps(config.to_dict(), indent=2))


def save_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, with `metadata` in their header; raises OSError where the disk is full or cannot be written."""
    try:
        save_file(tensors, path, metadata={"format": "pt"} | dict(metadata or {}))
        path.chmod(0o644)  # the library makes files that nobody else may read
    except SafetensorError as error:  # which has the number of the system's error in its text alone
        if match := re.search(r"os error (\d+)", str(error)):
            number = int(match[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise


def load_model(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a model as it was saved, in its own dtype unless another is given; it comes in evaluation mode.

    Raises ValueError naming the tensor when one is missing, is not the model's, or has another shape.
    """
    config, weights = read_config(folder / "config.json"), folder / "model.safetensors"
    return assemble(config, stream_tensors(weights), source=str(weights), device=device, dtype=dtype or "as stored")


def read_config(path: Path) -> ModelConfig:
    """Read a model's configuration; raises ValueError for a file that is none."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}, so it is no saved model")
    try:
        return ModelConfig.from_dict(read_object(path))
    except ValueError as error:
        raise ValueError(f"{path} holds no model's configuration: {error}") from None


def stream_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Read a safetensors file tensor by tensor, each into memory of its own; raises ValueError for one that is missing or damaged.

    A tensor is for a moment there twice, so the largest comes first, while there is room. The file is opened anew for each: the
    pages of an open one stay in memory as they are read.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}, so it is no saved model")
    try:
        with safe_open(path, framework="pt") as file:
            n_numbers = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name in sorted(n_numbers, key=n_numbers.__getitem__, reverse=True):
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name).clone()
            yield name, tensor
    except SafetensorError:
        raise ValueError(f"{path} is damaged or cut short: copy it again, or make it anew") from None
