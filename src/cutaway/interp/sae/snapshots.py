"""Where a training stands, on disk: a folder a step, tensors as safetensors and the rest as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cutaway.runtime import atomic_path, remove_path
from cutaway.values import said_of_json
from cutaway.weights import save_tensors, stream_tensors

__all__ = ["read_snapshot", "write_snapshot"]

_TENSORS, _DESCRIPTION = "state.safetensors", "state.json"


def write_snapshot(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a state as `step-000500` and remove the one before; either is there whole at any moment."""
    with atomic_path(folder / f"step-{step:06d}") as temporary:
        temporary.mkdir()
        save_tensors({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary / _TENSORS)
        (temporary / _DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")
    for older in _steps(folder)[:-1]:
        remove_path(older)


def read_snapshot(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the last state in a folder, None where there is none; raises ValueError for one of another training."""
    steps = _steps(folder)
    if not steps:
        return None
    path = steps[-1] / _DESCRIPTION
    try:
        about: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        theirs = about["config"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} describes no training: {said_of_json(error)}") from None
    ours = json.loads(json.dumps(config))
    if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise ValueError(
            f"{folder} holds a training with another {', '.join(different)}: give a folder of its own to each, or remove this one"
        )
    return dict(stream_tensors(steps[-1] / _TENSORS)), about


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []
