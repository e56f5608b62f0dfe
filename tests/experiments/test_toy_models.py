"""Toy models against their equation, what they are trained on against its definition, dimensionality of known shapes."""

import math

import pytest
import torch

import cutaway
from cutaway.assets.shipped import shipped_models
from cutaway.experiments.toy_models import (
    ToyModels,
    anticorrelated_features,
    best_replicas,
    correlated_features,
    feature_dimensionality,
    sparse_features,
)


def polygon(n: int) -> torch.Tensor:
    angles = torch.arange(n) * 2 * math.pi / n + 0.3
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_dimensionality_of_known_geometries() -> None:
    torch.testing.assert_close(feature_dimensionality(torch.eye(4).double()), torch.ones(4).double())
    torch.testing.assert_close(feature_dimensionality(polygon(5).double()), torch.full((5,), 2 / 5).double(), rtol=1e-6, atol=1e-6)
    antipodal = torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]]).double()
    torch.testing.assert_close(feature_dimensionality(antipodal), torch.full((4,), 0.5).double())
    assert feature_dimensionality(torch.zeros(3, 2)).tolist() == [0, 0, 0]


def test_best_replica_of_each_group() -> None:
    losses = torch.tensor([3.0, 1, 2, 0.5, 0.7, 0.6])
    assert best_replicas(losses, n_replicas=3).tolist() == [1, 3]
    assert best_replicas(losses, n_replicas=2).tolist() == [1, 3, 5]


@pytest.mark.parametrize("hidden", ["linear", "relu"])
def test_toy_models_are_the_equation(hidden) -> None:
    generator = torch.Generator().manual_seed(0)
    models = ToyModels(3, 5, 2, generator=generator, hidden=hidden)
    with torch.no_grad():
        models.b.normal_(generator=generator)
    x = sparse_features(7, torch.full((3, 5), 0.5), generator=generator)
    importance = torch.arange(1.0, 6)
    for instance in range(3):
        W, b = models.W[instance], models.b[instance]
        h = x[:, instance] @ W
        expected = ((h if hidden == "linear" else h.clamp_min(0)) @ W.T + b).clamp_min(0)
        torch.testing.assert_close(models(x)[:, instance], expected, rtol=1e-5, atol=1e-6)  # sums in another order
        loss = (importance * (x[:, instance] - expected) ** 2).mean()
        torch.testing.assert_close(models.losses(x, importance)[instance], loss, rtol=1e-5, atol=1e-6)
        of_each = torch.ones(3, 5).index_fill(0, torch.tensor(instance), 2.0)
        twice = models.losses(x, importance * of_each)[instance]
        torch.testing.assert_close(twice, 2 * loss, rtol=1e-5, atol=1e-6)


def test_features_are_as_sparse_as_asked() -> None:
    x = sparse_features(20_000, torch.tensor([[1.0, 0.5, 0.02]]), generator=torch.Generator().manual_seed(0))
    assert (x > 0).float().mean((0, 1)).tolist() == pytest.approx([1.0, 0.5, 0.02], abs=0.02)
    assert x.max() < 1
    assert x[x > 0].mean() == pytest.approx(0.5, abs=0.01)


def test_pairs_come_together_or_never() -> None:
    p = torch.tensor([[0.5, 0.1], [0.2, 0.3]])
    generator = torch.Generator().manual_seed(0)
    for draw, both in ((correlated_features, p), (anticorrelated_features, torch.zeros_like(p))):
        x = draw(20_000, p, generator=generator)
        one, other = (x > 0).float().unflatten(-1, (-1, 2)).unbind(-1)
        error = 0.015  # four standard errors of a share of one half
        torch.testing.assert_close(one.mean(0), p, rtol=0, atol=error)
        torch.testing.assert_close(other.mean(0), p, rtol=0, atol=error)
        torch.testing.assert_close((one * other).mean(0), both, rtol=0, atol=error)
        assert torch.equal(one * other > 0, one > 0) == (draw is correlated_features)
        sizes = x[x > 0]
        assert sizes.max() < 1
        assert sizes.mean() == pytest.approx(0.5, abs=0.01)
        pairs = x.unflatten(-1, (-1, 2))
        assert (pairs[..., 0] == pairs[..., 1]).float().mean() < 1 - p.min() / 2  # of different sizes where they are there
    with pytest.raises(ValueError, match=r"p_active is 0\.6"):
        anticorrelated_features(4, torch.tensor([[0.6]]), generator=generator)


def test_toy_models_are_kept_and_chosen(tmp_path) -> None:
    models = ToyModels(4, 3, 2, generator=torch.Generator().manual_seed(0), hidden="relu")
    with torch.no_grad():
        models.b.normal_(generator=torch.Generator().manual_seed(1))
    models.save(tmp_path / "kept")
    again = ToyModels.load(tmp_path / "kept")
    with pytest.raises(ValueError, match="is there already"):
        models.save(tmp_path / "kept")
    assert again.hidden == "relu"
    chosen = models.chosen(torch.tensor([2, 0]))
    x = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(again(x), models(x))
    torch.testing.assert_close(chosen(x[:, [2, 0]]), models(x)[:, [2, 0]])
    with torch.no_grad():
        chosen.W.zero_()
    assert models.W[2].abs().sum() > 0


def test_other_folders_and_names_hold_no_toy_models(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there are no toy models 'toy-geometri'.*did you mean 'toy-geometry'"):
        ToyModels.load("toy-geometri")
    with pytest.raises(FileNotFoundError, match="nor in a folder of that name"):
        ToyModels.load(tmp_path)
    with pytest.raises(ValueError, match=r"holds no toy models of superposition; cutaway\.load opens language models"):
        ToyModels.load(shipped_models()["induction-1l"])
    with pytest.raises(ValueError, match="toy models of superposition, which read no text"):
        cutaway.load("toy-geometry")
