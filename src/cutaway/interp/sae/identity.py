"""What makes two dictionaries the same, in one number."""

from __future__ import annotations

import hashlib
import json

import torch

from cutaway.interp.sae.dictionary import Dictionary

__all__ = ["dictionary_sha256"]

_OF_TRAINING = ("bandwidth", "model_sha256", "model", "scales")


def dictionary_sha256(dictionary: Dictionary) -> str:
    """Return the sha256 of what a dictionary computes from: its shape, and its weights with their names, in float32.

    So a dictionary held in more bits than it was saved in is the same; how it was trained is left out.
    """
    config = dictionary.config
    settings = {name: value for name, value in config.to_dict().items() if name not in _OF_TRAINING}
    settings["target"] = config.target if config.is_transcoder else None
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(dictionary.state_dict().items()):
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        wide = weight.detach().cpu().to(torch.float32).contiguous()
        digest.update(wide.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
