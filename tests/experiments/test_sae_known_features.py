"""Rows that have the covariance of features without being sparse, recipes, what is kept, and the experiment at the reduced scale."""

from dataclasses import replace

import pytest
import torch

from cutaway import experiments, sae
from cutaway.experiments.frame import Trial
from cutaway.experiments.sae_known_features import _Dense, _learn, _share_found, recipe


def test_dense_rows_have_the_moments_of_sparse_ones() -> None:
    known = sae.SyntheticFeatures.random(12, 5, probability=0.1, seed=0, n_rows=60_000)
    sparse = known.draw(60_000, torch.Generator().manual_seed(0)).double()
    (dense,) = (rows.double() for rows in _Dense(known, 1).batches(60_000, seed=2))
    torch.testing.assert_close(dense.mean(0), sparse.mean(0), rtol=0, atol=0.01)  # five standard errors
    torch.testing.assert_close(dense.T.cov(), sparse.T.cov(), rtol=0, atol=0.02)
    kurtosis = [((rows - rows.mean(0)) ** 4).mean() / ((rows - rows.mean(0)) ** 2).mean() ** 2 for rows in (dense, sparse)]
    assert kurtosis[1] > kurtosis[0] + 0.5  # what is sparse has tails


def test_recipes_take_what_is_changed() -> None:
    assert recipe("topk", 8, 16, seed=3).dictionary.k == 3
    changed = recipe("topk", 8, 16, seed=3, k=5)
    assert (changed.dictionary.k, changed.dictionary.d_sae, changed.seed) == (5, 16, 3)
    assert recipe("relu", 8, 16, seed=3, sparsity=0.4).sparsity == 0.4


def test_a_dictionary_is_learned_once(tmp_path) -> None:
    known = sae.SyntheticFeatures.random(12, 5, probability=0.1, seed=0)
    trial = Trial(seed=0, folder=tmp_path)
    config = replace(recipe("topk", 5, 12, seed=0), n_steps=3)
    first = _learn("topk k 3", config, known, trial)
    again = _learn("topk k 3", replace(config, seed=1), known, trial)
    assert torch.equal(first.W_dec, again.W_dec)
    assert not torch.equal(first.W_dec, _learn("another", replace(config, seed=1), known, trial).W_dec)


def test_found_are_those_near_enough() -> None:
    assert _share_found(torch.tensor([0.95, 0.9, 0.89, 0.2])) == 0.5


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("sae-known-features")
    result = experiments.run("sae-known-features", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
