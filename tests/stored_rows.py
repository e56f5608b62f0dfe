"""What the tests of the store share: tokens, names, and rows recorded by plain runs."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.hooks import recording
from cutaway.model import Transformer

IDS = torch.randint(31, (117,), generator=torch.Generator().manual_seed(5))
NAMES = ["blocks.0.attn.hook_z", "blocks.0.mlp.post", "blocks.1.resid_mid"]
SMALL_SHARDS = 2.5e-5
"""Of these activations in float64 a shard holds 30 to 40 rows."""


def expected_rows(model: Transformer, ids: Tensor, name: str, *, ctx: int) -> Tensor:
    """Return an activation of every token, one window after the other."""
    found = []
    for window in ids.split(ctx):
        hooks, seen = recording(name)
        with torch.no_grad():
            model(window[None], hooks=hooks)
        found.append(seen[name][0])
    return torch.cat(found)
