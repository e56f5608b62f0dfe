"""Cells of every kind for a sweep, and how near it comes to whole runs."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from cutaway import Transformer, edits, run_with_cache
from cutaway.interp.edits import Edit

TOLERANCE = 1e-10  # float64, and sums of a few hundred terms in another order


def cells(model: Transformer, corrupted: Tensor) -> list[list[Edit]]:
    """Every activation edited in every way, and mixtures of three."""
    _, cache = run_with_cache(model, corrupted)
    variants: list[list[Edit]] = []
    for name in model.hook_names():
        if name == "pos_embed":
            continue
        part = name.rpartition(".")[2]
        variants += [[edits.patch(name, cache)], [edits.patch(name, cache, pos=5)], [edits.patch(name, cache, pos=[3, 5, -1])]]
        if part != "attn_scores":
            variants += [[edits.scale(name, 1.5, pos=6)]]
        if part not in ("attn_scores", "pattern", "scale"):
            variants += [[edits.zero(name, pos=6)]]
        if part in ("q", "k", "v", "z", "rot_q", "rot_k", "result"):
            variants += [
                [edits.patch(name, cache, head=1, pos=-1)],
                [edits.add(name, torch.ones(2).double(), head=0, index=[1, 3])],
            ]
    variants += [edits.knock_out([0, 1], [(5, 3), (8, 2)], head=2)]
    mixed = random.Random(0)
    return variants + [[mixed.choice(variants)[0] for _ in range(3)] for _ in range(30)]
