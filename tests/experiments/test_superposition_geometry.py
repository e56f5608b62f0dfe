"""The pentagon, at the reduced scale, and what it is measured with."""

import math

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.superposition_geometry import _gap_deviation, _n_kept
from cutaway.experiments.toy_models import ToyModels, feature_dimensionality, sparse_features


def polygon(n: int) -> torch.Tensor:
    angles = torch.arange(n) * 2 * math.pi / n + 0.3
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_gaps_of_regular_and_other_polygons() -> None:
    assert _gap_deviation(polygon(5)) == pytest.approx(0, abs=1e-3)
    bent = polygon(5)
    bent[0] = torch.stack([torch.tensor(0.3 + 0.1).cos(), torch.tensor(0.3 + 0.1).sin()])
    assert _gap_deviation(bent) == pytest.approx(math.degrees(0.1), abs=1e-3)
    assert _n_kept(torch.tensor([[1.0, 0], [0, 0.4], [0.3, 0.5]])) == 2


def test_dimensionality_of_known_geometries() -> None:
    torch.testing.assert_close(feature_dimensionality(torch.eye(4).double()), torch.ones(4).double())
    torch.testing.assert_close(feature_dimensionality(polygon(5).double()), torch.full((5,), 2 / 5).double(), rtol=1e-6, atol=1e-6)
    antipodal = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]]).double()
    torch.testing.assert_close(feature_dimensionality(antipodal), torch.full((4,), 0.5).double())
    assert feature_dimensionality(torch.zeros(3, 2)).tolist() == [0, 0, 0]


def test_toy_models_are_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    models = ToyModels(3, 5, 2, generator=generator)
    with torch.no_grad():
        models.b.normal_(generator=generator)
    x = sparse_features(7, torch.full((3, 5), 0.5), generator=generator)
    importance = torch.arange(1.0, 6)
    for instance in range(3):
        W, b = models.W[instance], models.b[instance]
        expected = (x[:, instance] @ W @ W.T + b).clamp_min(0)
        torch.testing.assert_close(models(x)[:, instance], expected, rtol=1e-5, atol=1e-6)  # sums in another order
        loss = (importance * (x[:, instance] - expected) ** 2).mean()
        torch.testing.assert_close(models.losses(x, importance)[instance], loss, rtol=1e-5, atol=1e-6)


def test_features_are_as_sparse_as_asked() -> None:
    x = sparse_features(20_000, torch.tensor([[1.0, 0.5, 0.02]]), generator=torch.Generator().manual_seed(0))
    assert (x > 0).float().mean((0, 1)).tolist() == pytest.approx([1.0, 0.5, 0.02], abs=0.02)
    assert x.max() < 1
    assert x[x > 0].mean() == pytest.approx(0.5, abs=0.01)


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("superposition-geometry")
    result = experiments.run("superposition-geometry", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
