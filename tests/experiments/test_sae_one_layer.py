"""The dictionaries beside which a trained one is held, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.sae_one_layer import _neurons, _principal
from cutaway.interp.sae import measure_reconstruction


def test_principal_components_are_the_best_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 3.0
    for k in (1, 4, 9):
        found = measure_reconstruction(_principal(rows, k), [rows])
        assert found.fvu == pytest.approx(found.pca_fvu, rel=1e-4)  # float32 against float64
        assert found.l0 == pytest.approx(k)


def test_neurons_are_a_dictionary_that_gives_them_back() -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).relu()
    made = _neurons(7)
    assert torch.equal(made.encode(rows), rows)
    assert torch.equal(made(rows), rows)


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    result = experiments.run("sae-one-layer", experiments.experiment("sae-one-layer").scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
