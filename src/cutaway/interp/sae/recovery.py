"""How many of the features that are known a dictionary found."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.sae.dictionary import unit_rows
from cutaway.runtime import seeded_generator

__all__ = ["best_cosines", "random_dictionary"]


def best_cosines(directions: Float[Tensor, "feature d"], found: Float[Tensor, "d_sae d"]) -> Float[Tensor, " feature"]:
    """Return for each true feature the largest cosine with a direction of the dictionary; their mean says how well it found them.

    Source: Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders" (mean max cosine similarity).
    """
    cosines: Tensor = unit_rows(directions) @ unit_rows(found.to(directions)).T
    return cosines.amax(dim=1)


def random_dictionary(d_sae: int, d: int, *, seed: int = 0) -> Float[Tensor, "d_sae d"]:
    """Return directions drawn at random, as any dictionary has to be held against."""
    return unit_rows(torch.randn(d_sae, d, generator=seeded_generator(seed)))
