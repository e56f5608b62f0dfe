"""Two models compared by one dictionary: sums against whole tensors, stores against runs, and what never fires left out."""

from dataclasses import replace

import pytest
import torch

from cutaway import LanguageModel, sae
from cutaway.interp import store
from cutaway.tokenizers import CharTokenizer
from interp.models import small_model

LETTERS = "abcdefghijklmnopqrstuvwxyz .:\nQAXYZ"
TEXT = "the cat sat on the mat. a dog ran to the sea and a hen ate it. " * 40
NAME = "blocks.1.resid_post"


def language_model(seed=0, letters=LETTERS, **changes):
    tokenizer = CharTokenizer(letters)
    return LanguageModel(small_model(n_ctx=32, d_vocab=tokenizer.d_vocab, seed=seed, **changes), tokenizer)


@pytest.fixture(scope="module")
def pair():
    return language_model(0), language_model(1)


@pytest.fixture(scope="module")
def tokens(pair):
    ids = pair[0].tokens(TEXT)[0]
    return ids[: len(ids) // 16 * 16].reshape(-1, 16)


@pytest.fixture(scope="module")
def made(pair, tokens):
    """A crosscoder of few steps, one latent of which never fires."""
    models = [each.model for each in pair]
    shape = sae.crosscoder_config(models, NAME, width=2, kind="topk", k=4)
    config = sae.SAEConfig(dictionary=shape, n_steps=60, batch_size=64, learning_rate=1e-2, log_every=20)
    found, _ = sae.train(config, sae.ModelActivations(models, tokens, NAME))
    with torch.no_grad():
        found.b_enc[3] = -1e6
    return found


def test_shares_are_of_latents_that_fire_and_sums_those_of_whole_tensors(pair, tokens, made):
    found = sae.compare_models(made, *pair, tokens, names=("before", "after"), n_shown=2, n_contexts=3)
    rows = sae.TensorActivations.of(sae.ModelActivations([each.model for each in pair], tokens, NAME)).rows.float()
    latents = made.encode(rows)
    torch.testing.assert_close(found.density.float(), (latents > 0).float().mean(0))
    assert found.n_rows == len(rows)
    assert not found.is_live[3]
    assert found.is_live.sum() == (latents > 0).any(0).sum() < 64
    assert sum(int(each.sum()) for each in found.parts.values()) == found.is_live.sum(), "each that fires is of one kind"
    d = made.config.d_in // 2
    for fvu, half in zip(found.fvu, (slice(0, d), slice(d, None)), strict=True):
        error = (rows - made.decode(latents))[:, half].double().square().sum()
        variance = (rows - rows.mean(0))[:, half].double().square().sum()
        assert fvu == pytest.approx(float(error / variance), rel=1e-4)  # float32 rows, added up in another order
    for each in found.shown:
        values = latents[:, each.latent].reshape(len(tokens), -1)
        context = each.contexts[0]
        assert context.values[context.peak] == pytest.approx(float(values.max()), rel=1e-5)
        window = int(values.max(1).values.argmax())
        assert context.tokens[context.peak] == pair[0].text(tokens[window, 1 + int(values[window].argmax())][None])
    assert {each.whose for each in found.shown} <= {"both", "before", "after"}
    assert "before" in found.summary()
    assert len(found.figures()) == len(found.views()) == 2
    assert found.to_dict()["counts"].keys() == {"both", "before", "after"}


def test_one_model_twice_shares_every_latent(pair, tokens):
    """Both halves of every row are alike, so are gradients, and the two directions of a latent come to be one."""
    twice = [pair[0].model, pair[0].model]
    shape = sae.crosscoder_config(twice, NAME, width=2, kind="relu")
    config = sae.SAEConfig(dictionary=shape, n_steps=300, batch_size=64, sparsity=0.05, learning_rate=1e-2, log_every=100)
    made, _ = sae.train(config, sae.ModelActivations(twice, tokens, NAME))
    found = sae.compare_models(made, pair[0], pair[0], tokens)
    assert found.parts["both"].sum() == found.is_live.sum() > 0
    assert found.fvu[0] == pytest.approx(found.fvu[1], rel=0.2)  # the halves of the decoder begin apart


def test_a_shuffled_model_keeps_its_values_and_nothing_else(pair):
    model = pair[0].model
    shuffled = sae.shuffled_model(model, seed=3)
    for (name, weight), other in zip(model.named_parameters(), shuffled.parameters(), strict=True):
        assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values), name
        assert torch.equal(weight, other) == (
            weight.ndim != 2 or weight.numel() == 1 or bool((weight == weight.flatten()[0]).all())
        ), name
    assert all(map(torch.equal, shuffled.parameters(), sae.shuffled_model(model, seed=3).parameters()))


def test_two_stores_are_rows_of_both(pair, tmp_path):
    kept = [store.collect(each, TEXT, NAME, tmp_path / str(place), ctx=16) for place, each in enumerate(pair)]
    joined = sae.stored_side_by_side(kept, NAME)
    rows = next(iter(joined.batches(32, seed=0)))
    whole = torch.cat([each[NAME][:] for each in kept], dim=1)
    assert rows.shape == (32, whole.shape[1])
    assert all(bool((whole == row).all(1).any()) for row in rows), "both halves are of one token"
    other = store.collect(pair[1], TEXT[7:] + TEXT[:7], NAME, tmp_path / "other", ctx=16)
    with pytest.raises(ValueError, match="are of different tokens: collect both from one text"):
        sae.stored_side_by_side([kept[0], other], NAME)
    narrow = store.collect(pair[1], TEXT, NAME, tmp_path / "narrow", ctx=16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"are of torch.float64 and torch.bfloat16: use one dtype"):
        sae.stored_side_by_side([kept[0], narrow], NAME)


def test_models_that_do_not_go_together_are_refused(pair, tokens, made, tmp_path):
    again = sae.load_dictionary(sae.save_dictionary(made, tmp_path / "made"))
    assert again.config == made.config
    assert torch.equal(sae.compare_models(again, *pair, tokens).relative, sae.compare_models(made, *pair, tokens).relative)
    with pytest.raises(ValueError, match="trained on other models than these two in this order"):
        sae.compare_models(again, *reversed(pair), tokens)
    with pytest.raises(ValueError, match="32 and 24 coordinates in the two models: a crosscoder is of models of one shape"):
        sae.crosscoder_config([pair[0].model, language_model(d_model=24, n_heads=4).model], NAME)
    with pytest.raises(ValueError, match="the models have different tokenizers"):
        sae.compare_models(made, pair[0], language_model(1, LETTERS + "B"), tokens)
    unknown = sae.make_dictionary(replace(made.config, model_sha256=None))
    wide = language_model(d_model=24, n_heads=4)
    with pytest.raises(ValueError, match=r"reads 64 coordinates of .*, and the models have others"):
        sae.compare_models(unknown, wide, wide, tokens)


def test_a_crosscoder_finds_what_two_models_share_and_what_one_has_alone():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1) for _ in range(2))
    first[16:20], second[20:24] = 0, 0  # 16 of both, 4 of the second alone, 4 of the first alone
    known = sae.SyntheticFeatures(torch.cat([first, 50 * second], dim=1), probability=0.08)
    shape = sae.DictionaryConfig(kind="relu", d_in=32, d_sae=24, n_models=2)
    config = sae.SAEConfig(
        dictionary=shape, n_steps=1500, batch_size=128, sparsity=0.1, learning_rate=1e-2, dead_after=5000, log_every=100
    )
    made, curve = sae.train(config, known)
    assert made.config.scales == curve.scales
    compared = sae.compare_decoders(made)
    unit = torch.tensor([1.0] * 16 + [50.0] * 16)
    assert sae.best_cosines(known.directions / unit, made.W_dec / unit).mean() > 0.99
    alone = [(compared.relative < 0.1).sum().item(), (compared.relative > 0.9).sum().item()]
    assert alone == [4, 4], compared.summary()
    assert "16 are in both models, 4 in the first model alone and 4 in the second model alone" in compared.summary()


def test_a_model_of_longer_activations_does_not_have_all_latents(tmp_path):
    """Both models have the same rows, the second's ten times as long: every latent is of both, also once it was saved."""
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)).relu()
    shape = sae.DictionaryConfig(kind="relu", d_in=16, d_sae=16, n_models=2)
    config = sae.SAEConfig(dictionary=shape, n_steps=200, batch_size=128, sparsity=0.05, learning_rate=1e-2)
    made, curve = sae.train(config, torch.cat([rows, 10 * rows], dim=1))
    assert curve.scales[0] == pytest.approx(10 * curve.scales[1], rel=1e-4)  # float32 means of squares
    again = sae.load_dictionary(sae.save_dictionary(made, tmp_path / "crosscoder"))
    assert again.config == made.config
    for each in (made, again):
        relative = sae.compare_decoders(each).relative
        assert ((relative > 0.1) & (relative < 0.9)).all(), relative


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda made: sae.compare_decoders(made), "does not know the scales of its training"),
        (lambda made: sae.compare_decoders(made, [1.0]), "1 scales were given; expected one for each of the two"),
        (lambda made: sae.DictionaryConfig(d_in=4, d_sae=8, k=2, n_models=2, scales=(1.0,)), "expected a number above 0 for each"),
        (lambda made: sae.DictionaryConfig(d_in=4, d_sae=8, k=2, n_models=2, scales=(1.0, 0.0)), "expected a number above 0 for"),
        (
            lambda made: sae.compare_decoders(sae.make_dictionary(sae.DictionaryConfig(d_in=4, d_sae=8, k=2))),
            "reads 1 model.*train one of two",
        ),
    ],
)
def test_models_are_not_compared_by_guesses(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(sae.make_dictionary(sae.DictionaryConfig(d_in=4, d_sae=8, k=2, n_models=2)))
