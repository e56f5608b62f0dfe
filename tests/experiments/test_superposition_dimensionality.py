"""The measures on shapes and curves that are known, and the experiment at the reduced scale."""

import math

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.superposition_dimensionality import (
    FRACTIONS,
    _counts_near,
    _dimensions_per_feature,
    _even_fall,
    _geometric_fall,
    _is_kept,
    _longest_plateau,
    _random_directions,
    _share_near,
    _sums_off,
)
from cutaway.experiments.toy_models import feature_dimensionality


def regular(n: int) -> torch.Tensor:
    angles = torch.arange(n) * 2 * math.pi / n
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def antiprism() -> torch.Tensor:
    """Return the corners of a square antiprism whose frame is tight: heights that give all three axes the same sum of squares."""
    angles = torch.arange(8) * math.pi / 4
    height = 3**-0.5
    radius = (1 - height**2) ** 0.5
    return torch.stack([radius * angles.cos(), radius * angles.sin(), height * (-1) ** torch.arange(8)], dim=-1)


SHAPES = {
    "alone: 1": torch.eye(3),
    "tetrahedron: 3/4": torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5,
    "triangle: 2/3": regular(3),
    "pair: 1/2": torch.tensor([[1.0], [-1.0]]),
    "pentagon: 2/5": regular(5),
    "antiprism: 3/8": antiprism(),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions_are_those_of_the_shapes(name: str) -> None:
    found = feature_dimensionality(SHAPES[name].double())
    torch.testing.assert_close(found, torch.full_like(found, FRACTIONS[name]), rtol=1e-5, atol=1e-5)  # shapes in float32


def test_what_is_near_a_fraction_is_counted() -> None:
    found = _counts_near(torch.tensor([0.5, 0.505, 0.55, 0.76, 0.1, 0.395]))
    assert found == dict.fromkeys(FRACTIONS, 0) | {"pair: 1/2": 2, "tetrahedron: 3/4": 1, "pentagon: 2/5": 1}
    pair_and_own = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    assert _share_near(pair_and_own, [0.5]) == pytest.approx(2 / 3)
    assert _share_near(pair_and_own, [0.5], torch.tensor([True, False, True])) == 1 / 2
    assert _share_near(pair_and_own, FRACTIONS.values()) == 1
    assert _share_near(pair_and_own, [0.4, 0.75]) == 0


def test_random_directions_are_as_long() -> None:
    W = torch.tensor([[[3.0, 4, 0], [0, 0, 0.5]]])
    draws = _random_directions(W, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.norm(dim=-1), W.norm(dim=-1).expand(len(draws), -1, -1))
    assert draws.mean(0).abs().max() < 1.5  # 200 directions of length 5: over four standard errors


def test_sums_lengths_and_plateaus() -> None:
    W = torch.stack([torch.cat([torch.eye(2), torch.zeros(2, 2)]), torch.cat([torch.eye(2), -torch.eye(2)])])
    assert _dimensions_per_feature(W).tolist() == [1.0, 0.5]
    assert _sums_off(W).tolist() == pytest.approx([0, 0], abs=1e-4)
    lopsided = torch.tensor([[[1.0, 0], [1, 0], [0.6, 0.8]]])  # by hand: 1/2.36, 1/2.36, 1/1.72
    assert _sums_off(lopsided).item() == pytest.approx(100 * (1 - (2 / 2.36 + 1 / 1.72) / 2), abs=1e-3)
    assert _is_kept(W).sum(-1).tolist() == [2, 4]
    falling = torch.tensor([1.0, 0.515, 0.53, 0.5, 0.485, 0.49, 0.4, 0.51, 0.2])
    assert _longest_plateau(falling) == 3
    assert _longest_plateau(falling[:1]) == 0
    assert _even_fall(torch.tensor([1.0, 0.5, 0.2])).tolist() == pytest.approx([1.0, 0.6, 0.2])
    assert _geometric_fall(torch.tensor([1.0, 0.9, 0.25])).tolist() == pytest.approx([1.0, 0.5, 0.25])
    wide = torch.linspace(0, 1, 1000)  # wherever it begins: no more than two on the plateau, as said beside its width
    assert max(_longest_plateau(_geometric_fall(torch.tensor([1.0 + x, *[0.5] * 22, 0.29]))) for x in wide.tolist()) == 2


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("superposition-dimensionality")
    result = experiments.run("superposition-dimensionality", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
