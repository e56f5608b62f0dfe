"""The measures on weights that are known, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.privileged_basis import _alignment, _judged, _ordered, _rotations, _share_monosemantic
from cutaway.experiments.toy_models import ToyModels, sparse_features

ALIGNED = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1], [0, 0.1, 0.1]])
SHARED = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]])


def test_alignment_and_neurons_of_one_feature() -> None:
    assert _alignment(ALIGNED) == pytest.approx(1)  # the last feature is not kept
    assert _alignment(SHARED) == pytest.approx((1 + 1 + 0.8) / 3)
    assert _share_monosemantic(ALIGNED) == 1
    assert _share_monosemantic(SHARED) == pytest.approx(2 / 3)
    assert torch.equal(_ordered(ALIGNED)[:3].abs(), torch.eye(3))


def test_rotations_turn() -> None:
    Q = _rotations(4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(Q @ Q.mT, torch.eye(4).expand_as(Q), rtol=0, atol=1e-5)
    assert not torch.allclose(Q[0], Q[1])


@pytest.mark.parametrize("hidden", ["linear", "relu"])
def test_turning_costs_nothing_without_neurons(hidden) -> None:
    generator = torch.Generator().manual_seed(0)
    models = ToyModels(2, 4, 3, generator=generator, hidden=hidden)
    with torch.no_grad():
        models.W.copy_(torch.cat([torch.eye(3), torch.zeros(1, 3)]).expand(2, -1, -1))
    before = models.W.detach().clone()
    x = sparse_features(512, torch.full((2, 4), 0.5), generator=generator)
    judged = _judged(models, x, torch.ones(4), _rotations(3, generator), 2)
    assert torch.equal(models.W, before)
    assert torch.equal(judged.W, before[:1])
    (turned,) = judged.turned.tolist()
    assert turned == pytest.approx(1, abs=1e-4) if hidden == "linear" else turned > 1.5  # float32


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("privileged-basis")
    result = experiments.run("privileged-basis", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 3
