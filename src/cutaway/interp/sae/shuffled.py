"""A model whose weights stand in other places: what dictionaries find in it, no training has put there."""

from __future__ import annotations

import copy

import torch

from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["shuffled_model"]


@torch.no_grad()
def shuffled_model(model: Transformer, *, seed: int = 0) -> Transformer:
    """Return a copy of a model with the entries of each weight matrix permuted: each keeps its values and nothing else."""
    made, generator = copy.deepcopy(model), seeded_generator(seed)
    for weight in made.parameters():
        if weight.ndim == 2:
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.reshape(-1)[order].reshape(weight.shape))
    return made
