"""Waves over the numbers below a prime: how much of a matrix, logits or neurons is of which frequency (Nanda et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "along_waves",
    "circle_share",
    "cosine_share",
    "frequency_power",
    "in_plane",
    "leading_frequencies",
    "neuron_shares",
    "of_frequencies",
    "plane_of",
    "sum_waves",
    "turned",
    "wave_basis",
]


def wave_basis(prime: int) -> Float[Tensor, "wave number"]:
    """Return the waves over the numbers below a prime, each of norm 1: the constant, then cosine and sine of frequency 1, 2, ..."""
    turns = 2 * math.pi * torch.arange(prime, dtype=torch.float64) / prime
    frequencies = torch.arange(1, prime // 2 + 1, dtype=torch.float64)[:, None]
    waves = torch.stack([(frequencies * turns).cos(), (frequencies * turns).sin()], dim=1).flatten(0, 1)
    return F.normalize(torch.cat([torch.ones(1, prime, dtype=torch.float64), waves]), dim=1)


def _waves_of(prime: int, frequencies: Sequence[int]) -> Float[Tensor, "wave number"]:
    """Return cosine and sine of some frequencies, in their order."""
    return wave_basis(prime)[[wave for k in frequencies for wave in (2 * k - 1, 2 * k)]]


def frequency_power(W: Float[Tensor, "number d"]) -> Float[Tensor, " frequency"]:
    """Return the share of each frequency, 1 and up, in the power of a matrix over numbers, its mean over numbers left out."""
    power = (wave_basis(len(W)) @ W.double()).pow(2).sum(1)[1:]
    each: Tensor = power.unflatten(0, (-1, 2)).sum(1)
    return each / each.sum()


def leading_frequencies(W: Float[Tensor, "number d"], *, share: float | None = None) -> list[int]:
    """Return the fewest frequencies that hold a share of a matrix's power, or all, the greatest first."""
    ranked = frequency_power(W).sort(descending=True)
    n_needed = None if share is None else int((ranked.values.cumsum(0) < share).sum()) + 1
    found: list[int] = (ranked.indices[:n_needed] + 1).tolist()
    return found


def of_frequencies(W: Float[Tensor, "number d"], frequencies: Sequence[int]) -> Float[Tensor, "number d"]:
    """Return the part of a matrix over numbers that is made of some frequencies."""
    waves = _waves_of(len(W), frequencies)
    part: Tensor = waves.T @ (waves @ W.double())
    return part


def in_plane(W: Float[Tensor, "number d"], frequency: int) -> Float[Tensor, "number 2"]:
    """Return where the numbers of a matrix lie, from their mean, in the plane of its wave of one frequency."""
    W = W.double()
    placed: Tensor = (W - W.mean(0)) @ plane_of(W, frequency).T
    return placed


def plane_of(W: Float[Tensor, "number d"], frequency: int) -> Float[Tensor, "2 d"]:
    """Return the axes, at right angles, of the plane of a matrix's wave of one frequency; numbers go round from first to second."""
    turns, _, plane = torch.linalg.svd(_waves_of(len(W), [frequency]) @ W.double(), full_matrices=False)
    axes: Tensor = plane * torch.stack([torch.ones(()), torch.linalg.det(turns).sign()])[:, None]
    return axes


def turned(
    W: Float[Tensor, "number d"], planes: Float[Tensor, "plane 2 d"], angles: Float[Tensor, " plane"]
) -> Float[Tensor, "number d"]:
    """Return a matrix whose numbers are turned about their mean in some planes, by angles in radians, from first axis to second."""
    W = W.double()
    hands = einsum(W - W.mean(0), planes, "number d, plane side d -> number plane side")
    across = torch.stack([-hands[..., 1], hands[..., 0]], dim=-1)
    moved = hands * (angles.cos() - 1)[:, None] + across * angles.sin()[:, None]
    return W + einsum(moved, planes, "number plane side, plane side d -> number d")


def circle_share(W: Float[Tensor, "number d"], frequency: int) -> float:
    """Return how much of a matrix, in the plane of its wave of one frequency, is a circle on which the numbers go round evenly.

    The wave cos u + sin v draws an ellipse whose half axes are as the singular values of u and v; the best circle has their mean as
    its radius. What lies in the plane at other frequencies, and what an ellipse is not round, are missing from 1.
    """
    axes = torch.linalg.svdvals(_waves_of(len(W), [frequency]) @ W.double())
    return float(axes.sum().pow(2) / 2 / in_plane(W, frequency).pow(2).sum())


def cosine_share(logits: Float[Tensor, "pair answer"], frequencies: Sequence[int], *, moved: float = 0.0) -> float:
    """Return how much of the logits, their means over answers left out, is cos(w(a + b + moved - c)), one amplitude a frequency."""
    prime = logits.shape[1]
    centred = logits.double() - logits.double().mean(1, keepdim=True)
    pair, answer = torch.arange(prime**2)[:, None], torch.arange(prime)
    distance = (pair // prime + pair % prime - answer) % prime
    at_distance = torch.zeros(prime, dtype=torch.float64).index_add(0, distance.flatten(), centred.flatten())
    waves = _waves_of(prime, frequencies) / prime  # each distance comes prime^2 times: of norm 1 over pairs and answers
    angles = 2 * math.pi * moved / prime * torch.tensor(frequencies, dtype=torch.float64)[:, None]
    cosines = waves[::2] * angles.cos() - waves[1::2] * angles.sin()
    return ((cosines @ at_distance).pow(2).sum() / centred.pow(2).sum()).item()


def neuron_shares(activations: Float[Tensor, "pair neuron"]) -> Float[Tensor, "frequency neuron"]:
    """Return the share of each frequency in how each neuron varies over all pairs a, b: waves of a, of b, and their products.

    A neuron that never varies has no share at all.
    """
    prime = math.isqrt(len(activations))
    grid = rearrange(activations.double(), "(a b) neuron -> a b neuron", a=prime)
    basis = wave_basis(prime)
    power = einsum(basis, basis, grid, "wave_a a, wave_b b, a b neuron -> wave_a wave_b neuron").pow(2)
    constant = power[0, 0].clone()
    varying = power.sum((0, 1)) - constant
    places = [[0, 2 * k - 1, 2 * k] for k in range(1, prime // 2 + 1)]
    own = torch.stack([power[place][:, place].sum((0, 1)) - constant for place in places])
    return own / varying.clamp_min(1e-30)


def sum_waves(prime: int, frequencies: Sequence[int]) -> Float[Tensor, "wave pair"]:
    """Return cosine and sine of each frequency times a + b, over all pairs a * prime + b, each of norm 1."""
    pair = torch.arange(prime**2)
    return F.normalize(_waves_of(prime, frequencies)[:, (pair // prime + pair % prime) % prime], dim=1)


def along_waves(logits: Float[Tensor, "pair answer"], waves: Float[Tensor, "wave pair"]) -> Float[Tensor, "pair answer"]:
    """Return the part of the logits that is made of waves over the pairs."""
    part: Tensor = waves.T @ (waves @ logits.double())
    return part
