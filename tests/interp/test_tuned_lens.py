"""The tuned lens: its gradient and first step written out, what it learns on a tiny trained model, and what is saved of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import cutaway
from cutaway.data import Loader
from cutaway.interp import lens as lenses
from cutaway.interp.lens import TunedLens, logit_lens, mean_kl, state_names, training, tuned_lens
from cutaway.interp.lens.training import LensRecipe, train_translators
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer
from tiny_training import tiny_config, write_text

TEXT = "to be or not to be, that is the question! " * 20


@pytest.fixture
def lm(tiny_model):
    return LanguageModel(tiny_model, CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .,!\n"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learned a little, the text it learned from, and a lens for it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        recipe = {"n_layers": 3, "d_model": 32, "dropout": 0.0, "n_steps": 150, "batch_size": 16, "n_accumulate": 1}
        calm = {"validate_every": 150, "sample_every": 0, "save_every": 150, "learning_rate": 3e-3}
        text = write_text(home, n_words=6000)
        run = cutaway.train(tiny_config(text, out=str(home / "run"), **recipe, **calm), quiet=True)
    lm = cutaway.load(run)
    return lm, text.read_text(), TunedLens.train(lm, text.read_text(), n_steps=60, corpus="made-up lines")


def test_an_untrained_lens_is_the_logit_lens_bit_for_bit(lm):
    read, expected = tuned_lens(lm, "to be", TunedLens.untrained(lm.model)), logit_lens(lm, "to be")
    for name in ("top_probs", "probs", "log_probs", "ranks", "kl"):
        assert torch.equal(getattr(read, name), getattr(expected, name))
    assert (read.words, read.followed) == (expected.words, expected.followed)


def test_training_brings_every_layer_but_the_last_nearer(trained):
    lm, text, lens = trained
    found = lens.training
    assert [after < before for before, after in zip(found.kl_logit_lens[:-1], found.kl_tuned_lens[:-1], strict=True)] == [True] * 3
    assert found.kl_logit_lens[-1] == found.kl_tuned_lens[-1] == 0  # well within 1e-5: the last state is left alone
    fresh = lm.tokens(text[-400:-385])  # of the tenth that was held out
    names = state_names(lm.config)
    assert (mean_kl(lm.model, fresh, names, translate=lens.translate) < mean_kl(lm.model, fresh, names))[:-1].all()
    assert "lower at 3 of 3" in found.summary()
    assert "of made-up lines, compared on" in found.summary()


def test_the_first_step_is_the_one_written_out(lm):
    recipe = LensRecipe(n_steps=1, batch_size=3, n_pos=8, learning_rate=0.5, momentum=0.8, max_grad_norm=0.05, seed=3)
    ids = np.asarray(lm.tokenizer.encode(TEXT), dtype=np.uint16)
    names = state_names(lm.config)[:-1]
    A, b = train_translators(lm.model, Loader(ids, batch_size=3, n_ctx=8, seed=3), names, recipe)

    tokens, _ = Loader(ids, batch_size=3, n_ctx=8, seed=3).next_batch()
    kept, ln, W_U = {}, lm.model.unembed.ln_final, lm.model.unembed.W_U.weight
    with torch.no_grad():
        final = lm.model(tokens, hooks={name: lambda x, full: kept.update({full: x}) for name in names}).softmax(-1)
    for layer, name in enumerate(names):
        x = kept[name].flatten(0, 1)
        size = x.square().mean(-1).sqrt().median()

        def kl_of(A, unit_b, x=x, size=size):
            y = x + x @ A.T + size * unit_b
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + ln.eps).sqrt() * ln.weight + ln.bias
            logits, p = y @ W_U.T, final.flatten(0, 1)
            return (p * (p.log() - logits + logits.logsumexp(-1, keepdim=True))).sum(-1).mean()

        zeros = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
        gradients = torch.func.grad(kl_of, argnums=(0, 1))(*zeros)
        length = math.sqrt(sum(float(each.detach().square().sum()) for each in gradients))
        assert length > 0.05
        rate = 0.5 * (1 - 0.8) * (1 + 0.8) * 0.05 / (length + 1e-6)  # Nesterov's first step; torch's cut-off adds 1e-6
        torch.testing.assert_close(A[layer], -rate * gradients[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(b[layer], -rate * size * gradients[1], rtol=0, atol=1e-12)


def test_few_logits_are_held_at_a_time_with_the_same_gradient(lm, monkeypatch):
    recipe = LensRecipe(n_steps=3, batch_size=3, n_pos=8)
    ids, names = np.asarray(lm.tokenizer.encode(TEXT), dtype=np.uint16), state_names(lm.config)[:-1]
    whole = train_translators(lm.model, Loader(ids, batch_size=3, n_ctx=8, seed=0), names, recipe)
    monkeypatch.setattr(training, "_LOGITS_AT_ONCE", 5 * 31)
    parts = train_translators(lm.model, Loader(ids, batch_size=3, n_ctx=8, seed=0), names, recipe)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_the_same_seed_gives_the_same_lens_and_the_model_is_left_alone(lm):
    lm.model.train()
    weights = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    steps = []
    a, again, other = (
        TunedLens.train(lm, TEXT, n_steps=3, batch_size=2, seed=seed, progress=lambda *step: steps.append(step))
        for seed in (1, 1, 2)
    )
    assert torch.equal(a.A, again.A)
    assert torch.equal(a.b, again.b)
    assert not torch.equal(a.A, other.A)
    assert [step[:2] for step in steps[:3]] == [(1, 3), (2, 3), (3, 3)]
    assert lm.model.training
    assert all(weight.grad is None for weight in lm.model.parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in lm.model.state_dict().items())


def test_a_saved_lens_comes_back_bit_for_bit(trained, tmp_path):
    lm, _, lens = trained
    assert sorted(file.name for file in lens.save(tmp_path / "lens").iterdir()) == ["lens.json", "lens.safetensors"]
    again = TunedLens.load(tmp_path / "lens", lm.model)
    assert torch.equal(again.A, lens.A)
    assert torch.equal(again.b, lens.b)
    assert again.training == lens.training
    again.save(tmp_path / "lens")  # over itself


def test_a_lens_for_another_model_is_refused(trained, tmp_path):
    lm, _, lens = trained
    lens.save(tmp_path / "lens")
    model = lm.model.__class__(lm.config)
    model.load_state_dict(lm.model.state_dict())
    TunedLens.load(tmp_path / "lens", model)
    with torch.no_grad():
        model.unembed.ln_final.weight[0] += 1e-6
    with pytest.raises(
        ValueError, match=r"was made for another model \(its name is not known, 3 layers, d_model 32, sha256 \w{12}\) than"
    ):
        TunedLens.load(tmp_path / "lens", model)
    replace(lens, model="runs/demo").save(tmp_path / "lens")
    assert TunedLens.load(tmp_path / "lens", lm.model).model == "runs/demo"
    with pytest.raises(ValueError, match=r"was made for another model \(runs/demo, 3 layers, "):
        TunedLens.load(tmp_path / "lens", model)


def test_a_lens_of_another_shape_is_refused(lm, trained):
    with pytest.raises(ValueError, match="the lens is for 3 layers of d_model 32 and the model has 2 of 16"):
        tuned_lens(lm, "to be", trained[2])


def test_damaged_lenses_are_named(lm, tmp_path):
    lens = TunedLens.untrained(lm.model)
    with pytest.raises(ValueError, match=r"holds no lens.json, so it is no saved lens"):
        TunedLens.load(tmp_path, lm.model)
    folder = lens.save(tmp_path / "lens")
    whole = (folder / "lens.json").read_text()
    for broken in (
        "{",
        "[]",
        "{}",
        json.dumps({**json.loads(whole), "format": "other"}),
        json.dumps({**json.loads(whole), "training": 1}),
    ):
        (folder / "lens.json").write_text(broken)
        with pytest.raises(ValueError, match="describes no lens"):
            TunedLens.load(folder, lm.model)
    (folder / "lens.json").write_text(whole)
    replace(lens, A=lens.A[:1], b=lens.b[:1]).save(folder)
    (folder / "lens.json").write_text(whole)
    with pytest.raises(ValueError, match=r"lens.safetensors is damaged: expected A and b for 2 layers of d_model 16"):
        TunedLens.load(folder, lm.model)
    (folder / "lens.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged"):
        TunedLens.load(folder, lm.model)


def test_a_folder_with_other_things_is_not_written_into(lm, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        TunedLens.untrained(lm.model).save(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        TunedLens.untrained(lm.model).save(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_steps": 0}, "n_steps is 0; expected more than 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0; expected more than 0 and less than 1"),
        ({"text": "to be"}, "the text has 5 tokens: expected at least 240, 20 windows of 12"),
    ],
)
def test_mistakes_are_named(lm, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TunedLens.train(lm, options.pop("text", TEXT), **options)


def test_every_name_is_offered():
    assert cutaway.lens is lenses
    assert cutaway.lens.tuned_lens is tuned_lens
