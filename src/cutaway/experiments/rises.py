"""When a curve rises, and whether two rise at once."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

__all__ = ["rise", "overlap", "random_overlap"]

_N_PLACES = 200


def rise(curve: Float[Tensor, "2 point"], *, low: float = 0.1, high: float = 0.9) -> tuple[float, float]:
    """Return at which steps a curve, of steps and values, has come these shares of the way from its first value to its last.

    Each is the first such step, between two points by a straight line. A curve that ends where it began gives NaN.
    """
    steps, values = curve.tolist()
    way = values[-1] - values[0]
    if way == 0:
        return math.nan, math.nan
    shares = [(value - values[0]) / way for value in values]
    return _first_step(steps, shares, low), _first_step(steps, shares, high)


def _first_step(steps: list[float], shares: list[float], wanted: float) -> float:
    place = next(place for place, share in enumerate(shares) if share >= wanted)
    before = (wanted - shares[place - 1]) / (shares[place] - shares[place - 1])
    return steps[place - 1] + before * (steps[place] - steps[place - 1])


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return for how much of the time in which either rises both do: 1 for the same windows, 0 for windows apart."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return max(0.0, shared) / (max(first[1], second[1]) - min(first[0], second[0]))


def random_overlap(first: tuple[float, float], second: tuple[float, float], n_steps: int) -> float:
    """Return how much windows this long overlap that begin at any step in a training of `n_steps`, independently: the mean."""
    lengths = [end - begin for begin, end in (first, second)]
    windows = [
        [(begin, begin + length) for place in range(_N_PLACES) for begin in [(place + 0.5) / _N_PLACES * (n_steps - length)]]
        for length in lengths
    ]
    return sum(overlap(a, b) for a in windows[0] for b in windows[1]) / _N_PLACES**2
