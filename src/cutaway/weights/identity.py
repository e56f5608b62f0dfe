"""Which model this is, whatever file it came from: one hash of its weights and its configuration."""

from __future__ import annotations

import hashlib
import json

import torch

from cutaway.model import Transformer

__all__ = ["model_sha256"]


def model_sha256(model: Transformer) -> str:
    """Return the sha256 of what a model computes from: its configuration, and its weights with their names, dtypes and shapes.

    Dropout is left out, as it is no part of what a trained model computes. A tied matrix is read once.
    """
    # 10000 and 10000.0 are one base, and configurations that are equal hash alike
    settings = {name: float(value) if type(value) is int else value for name, value in model.config.to_dict().items()}
    del settings["dropout"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
