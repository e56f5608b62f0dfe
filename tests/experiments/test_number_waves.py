"""Waves over numbers against what is made of known ones, by hand and by numpy's transform."""

import math

import numpy as np
import pytest
import torch

from cutaway.experiments.number_waves import (
    along_waves,
    circle_share,
    cosine_share,
    frequency_power,
    in_plane,
    leading_frequencies,
    neuron_shares,
    of_frequencies,
    plane_of,
    sum_waves,
    turned,
    wave_basis,
)

PRIME = 11


def angles(frequency: int) -> torch.Tensor:
    return 2 * math.pi * frequency * torch.arange(PRIME, dtype=torch.float64) / PRIME


def clock(frequency: int, *, radius: float = 1.0, other: float | None = None) -> torch.Tensor:
    """Numbers on a circle, or on an ellipse with another half axis, in two of five dimensions."""
    turn = angles(frequency)
    flat = torch.stack([radius * turn.cos(), (radius if other is None else other) * turn.sin()], dim=1)
    directions = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    return flat @ directions.T


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_basis_is_orthonormal_and_complete() -> None:
    basis = wave_basis(PRIME)
    torch.testing.assert_close(basis @ basis.T, torch.eye(PRIME, dtype=torch.float64))


def test_power_is_that_of_the_fast_fourier_transform() -> None:
    W = noise(PRIME, 4)
    power = (np.abs(np.fft.rfft(W.numpy(), axis=0)) ** 2).sum(1)[1:]
    assert frequency_power(W).tolist() == pytest.approx((power / power.sum()).tolist())
    assert frequency_power(W + 3).tolist() == pytest.approx(frequency_power(W).tolist())  # the mean does not count


@pytest.mark.parametrize("frequency", [1, 2, 4])
@pytest.mark.parametrize("way", [1, -1])
def test_turns_by_steps_are_other_numbers_and_by_parts_of_steps_lie_between(frequency: int, way: int) -> None:
    other = 0.1 * noise(1, 5)  # a mean, which does not turn
    W = clock(frequency) * torch.tensor([way, 1, 1, 1, 1]).double() + other  # mirrored or not: round the other way
    axes = plane_of(W, frequency)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64))
    step = 2 * math.pi * frequency / PRIME
    for n in (1, 3):
        torch.testing.assert_close(turned(W, axes[None], torch.tensor([n * step]).double()), W.roll(-n, 0))
    thrice = W
    for _ in range(3):
        thrice = turned(thrice, axes[None], torch.tensor([step / 3]).double())
    torch.testing.assert_close(thrice, W.roll(-1, 0))


def test_leading_frequencies_are_the_fewest_that_are_enough() -> None:
    W = clock(2, radius=3) + clock(5, radius=2) + clock(4)  # powers 9, 4 and 1, in one plane or not
    assert frequency_power(W).tolist() == pytest.approx([0, 9 / 14, 0, 1 / 14, 4 / 14], abs=1e-12)
    assert leading_frequencies(W, share=0.6) == [2]
    assert leading_frequencies(W, share=0.9) == [2, 5]
    assert sorted(leading_frequencies(W)) == [1, 2, 3, 4, 5]


def test_parts_of_frequencies_are_what_was_put_in() -> None:
    W = clock(2, radius=3) + clock(5) + 7
    torch.testing.assert_close(of_frequencies(W, [2]), clock(2, radius=3))
    torch.testing.assert_close(of_frequencies(W, [5, 2]), W - 7)
    torch.testing.assert_close(of_frequencies(W, [1, 3]), torch.zeros_like(W))
    turned = of_frequencies(W, [2]).roll(-4, 0)  # number n has the hand of n + 4
    torch.testing.assert_close(turned[3], clock(2, radius=3)[7])


def test_circles_ellipses_and_noise() -> None:
    assert circle_share(clock(3) + 5, 3) == pytest.approx(1)
    assert circle_share(clock(3, radius=2, other=1), 3) == pytest.approx((2 + 1) ** 2 / 2 / (2**2 + 1**2))
    # a second circle in the same plane, of another frequency, is no part of the first
    assert circle_share(clock(3, radius=2) + clock(1, radius=1), 3) == pytest.approx(4 / 5)
    radii = in_plane(clock(3, radius=2) + 5, 3).norm(dim=1)
    torch.testing.assert_close(radii, torch.full((PRIME,), 2, dtype=torch.float64))
    assert circle_share(noise(PRIME, 5), 3) < 0.9


def test_neurons_of_one_frequency_of_two_and_of_none() -> None:
    a, b = angles(2)[:, None], angles(2)[None]
    product = 2 + a.cos() * b.sin() + a.sin() * b.cos()
    mixed = a.cos() * b.cos() + angles(3)[:, None].cos() * torch.ones(PRIME)  # means of squares 1/4 and 1/2
    across = angles(1)[:, None].cos() * angles(4)[None].cos()  # a product of two frequencies is of neither
    dead = torch.zeros(PRIME, PRIME, dtype=torch.float64)
    shares = neuron_shares(torch.stack([product, mixed, across, dead], dim=-1).flatten(0, 1))
    assert shares.shape == (5, 4)
    assert shares[:, 0].tolist() == pytest.approx([0, 1, 0, 0, 0], abs=1e-12)
    assert shares[:, 1].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 0, 0], abs=1e-12)
    assert shares[:, 2:].abs().max() < 1e-12


def test_logits_that_are_waves_of_the_sum() -> None:
    a, b, c = torch.arange(PRIME)[:, None, None], torch.arange(PRIME)[None, :, None], torch.arange(PRIME)
    hands = {k: (2 * math.pi * k / PRIME * (a + b - c).double()).cos().flatten(0, 1) for k in (1, 2, 4)}
    logits = 3 * hands[2] + hands[4] + noise(PRIME**2, 1)  # what is added to all answers alike does not count
    assert cosine_share(logits, [2, 4]) == pytest.approx(1)
    assert cosine_share(logits, [4]) == pytest.approx(1 / 10)
    assert cosine_share(logits, [1, 3]) == pytest.approx(0, abs=1e-12)
    turn, steps = 2 * math.pi / PRIME, 1 / 3
    between = (a + b + steps - c).double().flatten(0, 1)
    moved = 3 * (2 * turn * between).cos() + (4 * turn * between).cos()
    assert cosine_share(moved, [2, 4], moved=steps) == pytest.approx(1)
    assert cosine_share(moved, [2], moved=steps) == pytest.approx(9 / 10)
    assert cosine_share(moved, [2, 4], moved=steps + PRIME) == pytest.approx(1)
    stayed = 0.9 * math.cos(2 * turn * steps) ** 2 + 0.1 * math.cos(4 * turn * steps) ** 2
    assert cosine_share(moved, [2, 4]) == pytest.approx(stayed)
    part = along_waves(logits - noise(PRIME**2, 1), sum_waves(PRIME, [2]))
    torch.testing.assert_close(part, 3 * hands[2])
    torch.testing.assert_close(along_waves(hands[1], sum_waves(PRIME, [2])), torch.zeros(PRIME**2, PRIME, dtype=torch.float64))
