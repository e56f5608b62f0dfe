"""Tensors as JSON, bit for bit."""

from __future__ import annotations

import base64
import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["to_json", "from_json", "finite_or_none"]

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def to_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor of floats as values that JSON can hold: its shape, its dtype and its bytes in base64."""
    contiguous = tensor.detach().cpu().contiguous()
    content = contiguous.view(torch.uint8) if contiguous.ndim else contiguous.reshape(1).view(torch.uint8)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "base64": base64.b64encode(content.numpy().tobytes()).decode("ascii"),
    }


def from_json(values: dict[str, Any]) -> Tensor:
    """Return the tensor that `to_json` wrote; raises ValueError for what is none."""
    try:
        dtype, shape, content = _DTYPES[values["dtype"]], values["shape"], base64.b64decode(values["base64"], validate=True)
        return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"not a tensor written as dtype, shape and base64: {error}") from None


def finite_or_none(values: Any) -> Any:
    """Return nested lists of numbers with None for what is no finite number, which JSON cannot hold."""
    if isinstance(values, list):
        return [finite_or_none(each) for each in values]
    return values if math.isfinite(values) else None
