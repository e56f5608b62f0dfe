"""What comes in the place of what is ablated: nothing, a mean, or what it was in another row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.edits import Edit
from cutaway.interp.rows import Rows
from cutaway.interp.running import means, run_with_cache
from cutaway.interp.selection import Selection
from cutaway.interp.sites import site_of
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["How", "Replacement", "make_replacement"]

How = Literal["zero", "mean", "resample"]
"""Zeros, the mean over a reference set, or the activation of another row."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """The values that take the place of activations, and in words where they are from."""

    how: How
    said: str
    values: Mapping[str, Float[Tensor, "..."]]
    """By name of the activation: a mean as "pos ...", of other rows "batch pos ..."; empty for zeros."""

    def edit(self, name: str, *, head: int | Sequence[int] | None = None, pos: int | None = None, index: int | None = None) -> Edit:
        """Return the edit that puts it in the place of heads, one position or one coordinate of an activation."""
        where: dict[str, Any] = {"head": head, "pos": pos, "index": index}
        if self.how == "zero":
            return edits.zero(name, **where)
        value = self.values[name]
        row_shape = value.shape[value.ndim - len(site_of(name).axes) + 1 :]
        selection = Selection.of(site_of(name).axes, **where).resolved(row_shape, what=f"the reference of {name}")
        make = edits.mean if self.how == "mean" else edits.replace
        return make(name, selection.read(value), **where)


def make_replacement(
    model: Transformer,
    rows: Rows,
    names: Sequence[str],
    *,
    how: How,
    reference: Rows | None = None,
    by_position: bool = False,
    seed: int = 0,
) -> Replacement:
    """Return what takes the place of these activations in a run of `rows`.

    Raises ValueError for a reference that is missing, too short, or not asked for.
    """
    if how not in get_args(How):
        raise ValueError(f"there is no ablation {how!r}; give one of {', '.join(get_args(How))}")
    if by_position and how != "mean":
        raise ValueError(f"means alone are by position, and the ablation is {how!r}: leave that out, or ablate by the mean")
    if how == "zero":
        if reference is not None:
            raise ValueError("zeros come from nowhere, so they take no reference: leave it out, or ablate by mean or resample")
        return Replacement("zero", "zeros", {})
    if how == "mean":
        return _mean(model, rows, names, reference=reference, by_position=by_position)
    return _resampled(model, rows, names, reference=reference, seed=seed)


def _mean(model: Transformer, rows: Rows, names: Sequence[str], *, reference: Rows | None, by_position: bool) -> Replacement:
    source = reference or rows
    whose = f"{len(source.tokens)} reference row{'s' * (len(source.tokens) > 1)}" if reference else "these same rows"
    n_pos = rows.tokens.shape[1]
    if by_position:
        if not (source.is_even and source.tokens.shape[1] == n_pos):
            raise ValueError(
                f"a mean for each position needs reference rows of {n_pos} tokens,"
                " as those ablated have: give such rows, or take one mean over positions"
            )
        found = means(model, source.tokens, names, over_positions=False)
        return Replacement("mean", f"the mean of each position over {whose}", found)
    found = _over_positions(model, source, names)
    values = {name: x.expand(n_pos, *x.shape) for name, x in found.items()}  # pos ..., the same at each
    return Replacement("mean", f"the mean over {whose} and all positions ({sum(source.lengths):,} tokens)", values)


def _over_positions(model: Transformer, rows: Rows, names: Sequence[str]) -> dict[str, Tensor]:
    """Return means over all tokens, those that only fill rows up left out."""
    if rows.is_even:
        return means(model, rows.tokens, names)
    sums: dict[str, Tensor] = {}
    for tokens, length in zip(rows.tokens, rows.lengths, strict=True):
        for name, x in means(model, tokens[None, :length], names).items():
            sums[name] = sums.get(name, 0) + x * length
    return {name: total / sum(rows.lengths) for name, total in sums.items()}


def _resampled(model: Transformer, rows: Rows, names: Sequence[str], *, reference: Rows | None, seed: int) -> Replacement:
    n_rows, n_pos = rows.tokens.shape
    generator = seeded_generator(seed)
    if reference is None:
        if n_rows < 2 or not rows.is_even:
            raise ValueError(
                "resampling takes activations from other rows of the same length: give several such rows, or a reference"
            )
        source, said = rows, f"the activations of another of the {n_rows} rows (seed {seed})"
        cycle = torch.randperm(n_rows, generator=generator)
        partners = torch.empty_like(cycle)
        partners[cycle] = cycle.roll(1)  # no row is its own partner
    else:
        if min(reference.lengths) < n_pos:
            raise ValueError(
                f"a reference row has {min(reference.lengths)} tokens and what is ablated {n_pos}: give rows that are as long"
            )
        source, n_source = reference, len(reference.tokens)
        said = f"the activations of rows drawn from {n_source} reference rows (seed {seed})"
        partners = torch.randint(n_source, (n_rows,), generator=generator)
    return Replacement("resample", said, _of_rows(model, source.tokens[:, :n_pos], partners, names))


def _of_rows(
    model: Transformer, tokens: Int[Tensor, "source pos"], partners: Int[Tensor, " batch"], names: Sequence[str]
) -> dict[str, Tensor]:
    _, cache = run_with_cache(model, tokens[partners.to(tokens.device)], names)
    return dict(cache)
