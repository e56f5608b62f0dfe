"""Several dictionaries trained on one reading of activations: each must become what it becomes alone."""

import itertools

import pytest
import torch

from cutaway import ModelConfig, Transformer, sae


def a_config(kind="topk", *, d_in=6, target=None, d_out=0, **recipe):
    k = 3 if "topk" in kind else None
    shape = sae.DictionaryConfig(kind=kind, d_in=d_in, d_sae=20, k=k, name=f"read by {kind}", target=target, d_out=d_out)
    settings = {"n_steps": 20, "batch_size": 16, "dead_after": 64, "log_every": 5, "learning_rate": 3e-3, "seed": 4, **recipe}
    return sae.SAEConfig(dictionary=shape, sparsity=0.0 if k else 0.05, **settings)


CONFIGS = [
    a_config("topk", target="something else", d_out=4),
    a_config("relu", d_in=8),
    a_config("batchtopk"),
    a_config("jumprelu"),
]
SPANS = [slice(0, 10), slice(10, 18), slice(18, 24), slice(24, 30)]


def rows(n=100):
    return 3 * torch.randn(n, 30, generator=torch.Generator().manual_seed(2)) + 1


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_each_becomes_what_it_becomes_alone():
    together = sae.train_together(CONFIGS, rows())
    for (dictionary, curve), config, span in zip(together, CONFIGS, SPANS, strict=True):
        alone, its_curve = sae.train(config, rows()[:, span])
        assert same(dictionary, alone), config.dictionary.kind
        assert curve.to_json() == its_curve.to_json()
        assert not dictionary.training
    assert not any(same(a, b) for (a, _), (b, _) in itertools.combinations(together[2:], 2))


class Interrupted(Exception):
    pass


def test_an_interrupted_training_of_several_goes_on_to_the_same_result(tmp_path):
    whole = sae.train_together(CONFIGS, rows())

    def stop(n_done, n_all, points):
        assert (n_all, len(points)) == (20, 4)
        if n_done == 13:
            raise Interrupted

    with pytest.raises(Interrupted):
        sae.train_together(CONFIGS, rows(), checkpoints=tmp_path, checkpoint_every=5, progress=stop)
    resumed = sae.train_together(CONFIGS, rows(), checkpoints=tmp_path, checkpoint_every=5)
    for (dictionary, curve), (again, its_curve) in zip(whole, resumed, strict=True):
        assert same(dictionary, again)
        assert curve.points == its_curve.points
    for others in (CONFIGS[:3], CONFIGS[::-1], CONFIGS[:1]):
        width = sum(config.dictionary.d_row for config in others)
        with pytest.raises(ValueError, match="a training with another"):
            sae.train_together(others, rows()[:, :width], checkpoints=tmp_path)


def test_one_run_of_the_model_serves_all_layers():
    shape = ModelConfig(d_vocab=11, n_ctx=8, n_layers=3, n_heads=2, d_model=8)
    model = Transformer(shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(11, (12, 8), generator=torch.Generator().manual_seed(1))
    configs = [
        sae.SAEConfig(
            dictionary=sae.DictionaryConfig(
                kind="topk", d_in=8, d_sae=16, k=3, name=f"blocks.{layer}.ln2.normalized", target=f"blocks.{layer}.mlp_out"
            ),
            n_steps=5, batch_size=16,
        )
        for layer in range(3)
    ]  # fmt: skip
    names = [name for config in configs for name in config.dictionary.row_names]
    assert names[:3] == ["blocks.0.ln2.normalized", "blocks.0.mlp_out", "blocks.1.ln2.normalized"]
    together = sae.train_together(configs, sae.ModelActivations(model, tokens, names))
    for (dictionary, _), config in zip(together, configs, strict=True):
        alone, _ = sae.train(config, sae.ModelActivations(model, tokens, config.dictionary.row_names))
        # the same rows, computed in a run that may end in an earlier layer
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(dictionary.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(
    ("configs", "width", "sentence"),
    [
        ([], 30, "give at least one, all alike"),
        ([a_config(), a_config("relu", n_steps=9)], 12, "give at least one, all alike"),
        ([a_config(), a_config("relu", seed=9)], 12, "give at least one, all alike"),
        ([a_config(), a_config("relu")], 13, "have 13 coordinates and the dictionaries read and predict 12"),
    ],
)
def test_what_does_not_go_together_is_refused(configs, width, sentence):
    with pytest.raises(ValueError, match=sentence):
        sae.train_together(configs, rows()[:, :width])


def test_curves_are_shown_together():
    found = sae.LearningCurves(curves=tuple(curve for _, curve in sae.train_together(CONFIGS, rows())))
    header, lines = found.table()
    assert [line[0] for line in lines] == [config.dictionary.name for config in CONFIGS]
    assert len(header) == len(lines[0])
    worst = max(found.curves, key=lambda curve: curve.last.fvu)
    assert f"to {100 * worst.last.fvu:.1f} % ({worst.name})" in found.summary()
    assert len(found.figures()) == 1
    assert [each["name"] for each in found.to_dict()["curves"]] == [line[0] for line in lines]
