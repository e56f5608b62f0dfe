"""How sure a number is that comes of several prompt pairs: the bootstrap over pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Interval", "N_RESAMPLES", "FEWEST_ROWS", "resampled_means", "ratio_interval", "interval_of"]

N_RESAMPLES = 2000
FEWEST_ROWS = 5
"""Fewer are drawn anew in so few ways that the ends of an interval are those of single rows."""


class Interval(NamedTuple):
    """The ends of a percentile interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def resampled_means(
    values: Float[Tensor, "*series batch"], *, n_resamples: int = N_RESAMPLES, generator: torch.Generator
) -> Float[Tensor, "resample *series"]:
    """Return the means of as many rows drawn anew with replacement, the same rows in every series, in float64.

    Raises ValueError for fewer than 1,000 resamples, whose percentiles are too rough.
    """
    if n_resamples < 1000:
        raise ValueError(f"{n_resamples} resamples are too few for the ends of an interval: take at least 1,000")
    n_rows = values.shape[-1]
    drawn = torch.randint(n_rows, (n_resamples, n_rows), generator=generator)
    counts = torch.zeros(n_resamples, n_rows, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    means = counts @ values.double().cpu().reshape(-1, n_rows).T / n_rows  # resample (series)
    return means.reshape(n_resamples, *values.shape[:-1])


def interval_of(resampled: Float[Tensor, " resample"], *, level: float = 0.95) -> Interval:
    """Return the interval between two percentiles that holds so much of what was resampled."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=resampled.dtype)
    low, high = resampled.quantile(ends).tolist()
    return Interval(low, high)


def ratio_interval(
    numerator: Float[Tensor, " batch"],
    denominator: Float[Tensor, " batch"],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    generator: torch.Generator,
) -> Interval | None:
    """Return the percentile interval of the ratio of two means over the same rows.

    It is None where the interval of the denominator's mean holds 0, as the ratio then has no ends (Fieller 1954, "Some Problems in
    Interval Estimation"). Raises ValueError for fewer than `FEWEST_ROWS` rows.
    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if len(denominator) < FEWEST_ROWS:
        raise ValueError(f"there are {len(denominator)} rows, too few to draw an interval from: give at least {FEWEST_ROWS}")
    means = resampled_means(torch.stack([numerator, denominator]), n_resamples=n_resamples, generator=generator)
    low, high = interval_of(means[:, 1], level=level)
    return None if low <= 0 <= high else interval_of(means[:, 0] / means[:, 1], level=level)
