"""Angles within pairs of known directions, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.superposition_correlation import Config, _cosines, _evenness, _features, _shares


def test_cosines_are_of_the_features_of_a_pair() -> None:
    W = torch.tensor([[[2.0, 0], [0, 1], [1, 0], [-3, 0]], [[1, 1], [1, 0], [0, 1], [0, 2]]])
    assert _cosines(W).flatten().tolist() == pytest.approx([0, -1, 0.5**0.5, 1])
    assert _shares(W) == {"at right angles": 1 / 4, "opposite": 1 / 4}
    assert _evenness(W) == pytest.approx(1 / 3)


def test_each_model_has_features_of_its_kind() -> None:
    config = Config(p_correlated=(0.4,), p_anticorrelated=(0.2,), n_replicas=2)
    x = _features(config, 20_000, torch.Generator().manual_seed(0)) > 0
    together = (x[..., 0] & x[..., 1]).float().mean(0)
    expected = torch.tensor([0.4, 0.4, 0, 0, 0.16, 0.16, 0.04, 0.04])  # independent ones by their product
    torch.testing.assert_close(together, expected, rtol=0, atol=0.015)  # four standard errors


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("superposition-correlation")
    result = experiments.run("superposition-correlation", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
