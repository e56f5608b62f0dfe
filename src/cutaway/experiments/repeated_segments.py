"""Random tokens of which one stretch comes twice, at once after itself: what can be foretold of them is by induction alone."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["repeated_segments"]


def repeated_segments(
    batch_size: int, n_pos: int, *, d_vocab: int, shortest: int = 4, generator: torch.Generator
) -> Int[Tensor, "batch pos"]:
    """Return rows of uniform tokens, in each one stretch that is followed by its copy, from `shortest` to half a row long.

    Length and place are each row's own, so that no fixed distance foretells the copy, and there is one copy alone: with more of them
    a model learns to look several periods back. Raises ValueError where no such stretch fits.
    """
    if not 1 <= shortest <= n_pos // 2:
        raise ValueError(f"a stretch of at least {shortest} tokens does not come twice in {n_pos}: give 1 to {n_pos // 2}")
    tokens = torch.randint(d_vocab, (batch_size, n_pos), generator=generator)
    length = torch.randint(shortest, n_pos // 2 + 1, (batch_size, 1), generator=generator)
    places = n_pos - 2 * length + 1
    begin = length + (torch.rand(batch_size, 1, generator=generator) * places).long()  # of the copy
    pos = torch.arange(n_pos)
    is_copy = (begin <= pos) & (pos < begin + length)
    return tokens.gather(1, torch.where(is_copy, pos - length, pos))
