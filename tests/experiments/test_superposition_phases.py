"""Losses in closed form and on few sizes against sampling, phases of known weights, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.superposition_phases import _expected_losses, _phases, handmade_losses
from cutaway.experiments.toy_models import ToyModels, sparse_features


def sampled(W: list[float], b: list[float], ratio: float, p: float) -> float:
    x = sparse_features(2_000_000, torch.full((1, 2), p), generator=torch.Generator().manual_seed(0))[:, 0].double()
    weights, bias = torch.tensor(W).double(), torch.tensor(b).double()
    back = ((x @ weights)[:, None] * weights + bias).clamp_min(0)
    return ((x - back) ** 2 @ torch.tensor([1.0, ratio]).double()).mean().item()


@pytest.mark.parametrize(("ratio", "p"), [(0.3, 0.9), (2.0, 0.4)])
def test_losses_by_hand_are_what_sampling_says(ratio: float, p: float) -> None:
    found = handmade_losses(torch.tensor([ratio]), torch.tensor([p]))[:, 0].tolist()
    guess = p / 2
    models = ([1.0, 0], [0, guess]), ([0, 1.0], [guess, 0]), ([1.0, -1], [0.0, 0])
    for loss, (W, b) in zip(found, models, strict=True):
        assert loss == pytest.approx(sampled(W, b, ratio, p), rel=0.01)  # four standard errors


def test_superposition_pays_from_four_sevenths_down() -> None:
    p = torch.tensor([0.56, 0.58])  # 4/7 = .571 between them, for two features of one importance
    first, _, both = handmade_losses(torch.ones(2), p)
    assert (both < first).tolist() == [True, False]


def test_expected_losses_are_what_sampling_says() -> None:
    models = ToyModels(1, 2, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        models.W.copy_(torch.tensor([[[1.1], [-0.7]]]))
        models.b.copy_(torch.tensor([[0.05, -0.1]]))
        found = _expected_losses(models, torch.tensor([3.0]), torch.tensor([0.6]), n_sizes=64).item()
    assert found == pytest.approx(sampled([1.1, -0.7], [0.05, -0.1], 3.0, 0.6), rel=0.01)


def test_phases_are_told_by_which_features_are_kept() -> None:
    W = torch.tensor([[1.0, 0.1], [-0.2, -1.0], [0.9, -0.8], [0.9, 0.8], [0.1, 0.1]])
    assert _phases(W).tolist() == [0, 1, 2, 3, 3]


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("superposition-phases")
    result = experiments.run("superposition-phases", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
