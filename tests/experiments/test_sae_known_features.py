"""Rows that have the covariance of features without being sparse, recipes, what is kept, and the experiment at the reduced scale."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway import experiments, sae
from cutaway.experiments.frame import Trial
from cutaway.experiments.sae_known_features import Config, Sweep, _Dense, _learn, _share_found, recipes


def test_dense_rows_have_the_moments_of_sparse_ones() -> None:
    known = sae.SyntheticFeatures.random(12, 5, probability=0.1, seed=0, n_rows=60_000)
    sparse = known.draw(60_000, torch.Generator().manual_seed(0)).double()
    (dense,) = (rows.double() for rows in _Dense(known, 1).batches(60_000, seed=2))
    torch.testing.assert_close(dense.mean(0), sparse.mean(0), rtol=0, atol=0.01)  # five standard errors
    torch.testing.assert_close(dense.T.cov(), sparse.T.cov(), rtol=0, atol=0.02)
    kurtosis = [((rows - rows.mean(0)) ** 4).mean() / ((rows - rows.mean(0)) ** 2).mean() ** 2 for rows in (dense, sparse)]
    assert kurtosis[1] > kurtosis[0] + 0.5  # what is sparse has tails


def test_recipes_are_of_the_configuration() -> None:
    config = Config(n_features=16, d=8, topk=Sweep(n_steps=7, k=(3, 5)), relu=Sweep(n_steps=9, sparsity=(0.4,)), batch_size=32)
    of_topk = recipes(config, "topk", seed=3)
    assert list(of_topk) == ["topk k 3", "topk k 5"]
    assert [(each.dictionary.k, each.dictionary.d_in, each.dictionary.d_sae) for each in of_topk.values()] == [
        (3, 8, 16),
        (5, 8, 16),
    ]
    assert {(each.n_steps, each.batch_size, each.seed) for each in of_topk.values()} == {(7, 32, 3)}
    (of_relu,) = recipes(config, "relu", seed=3).values()
    assert (of_relu.dictionary.k, of_relu.sparsity, of_relu.n_steps) == (None, 0.4, 9)


def test_a_dictionary_is_learned_once_as_it_is_asked_for(tmp_path: Path) -> None:
    known = sae.SyntheticFeatures.random(12, 5, probability=0.1, seed=0)
    (config,) = recipes(Config(n_features=12, d=5, topk=Sweep(n_steps=3, k=(3,))), "topk", seed=0).values()

    def learn(config: sae.SAEConfig) -> tuple[sae.Dictionary, float]:
        trial = Trial(seed=0, folder=tmp_path, sources="this code")
        dictionary = _learn("topk k 3", config, known, trial)
        training = trial.trainings["topk k 3"]
        assert training.recipe["seed"] == config.seed
        assert training.sources == "this code"
        return dictionary, training.earlier_s

    first, earlier_s = learn(config)
    assert earlier_s == 0
    again, earlier_s = learn(config)
    assert earlier_s > 0
    assert torch.equal(first.W_dec, again.W_dec)
    more = replace(config, dictionary=replace(config.dictionary, d_sae=20, k=2))
    for changed in (replace(config, seed=1), more):
        anew, earlier_s = learn(changed)
        assert earlier_s == 0
        assert anew.W_dec.shape[0] == changed.dictionary.d_sae
        assert not torch.equal(first.W_dec, anew.W_dec)
    (tmp_path / "topk-k-3.json").unlink()  # as where it was stopped before the dictionary was whole
    assert learn(more)[1] == 0


def test_found_are_those_near_enough() -> None:
    assert _share_found(torch.tensor([0.95, 0.9, 0.89, 0.2])) == 0.5


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("sae-known-features")
    result = experiments.run("sae-known-features", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
