"""Files of tensors that other people's programs have saved: mapped and checked, with nothing of them run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cutaway.weights.source import StoredTensor

__all__ = ["read_checkpoint", "check_state_dictionary", "check_floats", "describe_tensors"]

_ZIP = b"PK\x03\x04"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Map a file of `torch.save` or a safetensors file: tensors are read when they are used, and nothing of it is ever run.

    Raises ValueError for another file, a damaged one, and one that holds other things than tensors and plain values.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    try:
        if not is_zip:
            with safe_open(path, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is neither a safetensors file ({error}) nor one that torch.save has written since torch 1.6; nothing of it was run"
        ) from None
    except Exception as error:  # what a damaged pickle raises is not foreseeable
        wants = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it asks for {wants[1]}" if wants else f"{type(error).__name__}, {' '.join(str(error).split()).partition('. ')[0]}"
        )
        raise ValueError(
            f"{path} is damaged or holds more than tensors and plain values ({reason}); nothing of it was run"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dictionary")  # noqa: TRY004
    return dict(content)


def check_state_dictionary(path: Path, tensors: Mapping[Any, Any]) -> None:
    """Raise ValueError unless this is a state dictionary: names and plain tensors, nothing else."""
    for name, tensor in tensors.items():
        is_plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
        if not (is_plain and isinstance(name, str)):
            raise ValueError(f"{path}: {name!r} is no plain tensor; expected a state dictionary, which holds those alone")


def check_floats(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError for a weight that is no floating-point number."""
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"{path}: {name} is of {tensor.dtype}; expected floating-point numbers of 16, 32 or 64 bits")


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Return the type and the shape of mapped tensors; their data are not read."""
    return {name: StoredTensor(str(x.dtype).removeprefix("torch."), tuple(x.shape)) for name, x in tensors.items()}
