"""The pentagon, at the reduced scale, and what it is measured with."""

import math

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.superposition_geometry import _gap_deviation, _n_kept


def polygon(n: int) -> torch.Tensor:
    angles = torch.arange(n) * 2 * math.pi / n + 0.3
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_gaps_of_regular_and_other_polygons() -> None:
    assert _gap_deviation(polygon(5)) == pytest.approx(0, abs=1e-3)
    bent = polygon(5)
    bent[0] = torch.stack([torch.tensor(0.3 + 0.1).cos(), torch.tensor(0.3 + 0.1).sin()])
    assert _gap_deviation(bent) == pytest.approx(math.degrees(0.1), abs=1e-3)
    assert _n_kept(torch.tensor([[1.0, 0], [0, 0.4], [0.3, 0.5]])) == 2


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("superposition-geometry")
    result = experiments.run("superposition-geometry", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
