"""Labels told from few latents: a planted feature is found with one of them, random directions need many, coordinates none has."""

import pytest
import torch

from cutaway import LanguageModel, sae
from cutaway.interp.sae.sparse_probing import sparse_probes
from cutaway.tokenizers import CharTokenizer
from interp.models import small_model

NAME = "blocks.0.resid_pre"
TEXTS = [f"{first}{second}{last}" for first in "abcd" for second in "efgh" for last in "xy"]
LABELS = ["ex" if text.endswith("x") else "why" for text in TEXTS]


@pytest.fixture(scope="module")
def lm():
    tokenizer = CharTokenizer("abcdefghxyz")
    return LanguageModel(small_model(d_vocab=tokenizer.d_vocab, n_ctx=8), tokenizer)


@pytest.fixture(scope="module")
def planted(lm):
    """A dictionary of which latent 5 alone is whether the token is an x: its direction is what the x is and y is not."""
    shape = sae.DictionaryConfig(kind="relu", d_in=32, d_sae=40, name=NAME)
    made = sae.make_dictionary(shape, generator=torch.Generator().manual_seed(0)).double()
    W_E, x, y = lm.model.embed.W_E.detach(), *lm.tokenizer.encode("xy")
    with torch.no_grad():
        direction = W_E[x] - W_E[y]
        made.W_enc[:, 5] = direction / direction.norm()
        made.b_enc[5] = -0.5 * (_stream(lm, "aax") + _stream(lm, "aay")) @ made.W_enc[:, 5]
    return made.requires_grad_(False)


def _stream(lm, text):
    tokens = lm.tokens(text)
    return lm.model.embed(tokens)[0, -1].detach()


def test_a_planted_latent_is_chosen_first_and_tells_all(lm, planted):
    found = sae.probe_latents(lm, planted, TEXTS, LABELS, ks=(1, 5), n_folds=4, seed=2)
    assert (found.label, found.others) == ("why", ("ex",))
    assert found.latents[0].features == (5,)
    assert found.latents[0].accuracy == found.dense == 1.0
    assert (found.n_rows, found.n_texts, found.ks) == (32, 32, (1, 5))
    assert len(found.random) == 3
    assert max(draw[0] for draw in found.random) <= 1.0
    assert found.series["random latents"][0] == pytest.approx(sum(draw[0] for draw in found.random) / 3)
    assert "with 1 of the 40 latents of blocks.0.resid_pre in 100.0 % of the texts held out" in found.summary()
    assert len(found.figures()) == len(found.views()) == 1
    assert found.table()[1][-1] == ["all", "", "", "100.0 %"]


def test_what_stands_beside_is_the_same_probe_on_other_rows(lm, planted):
    found = sae.probe_latents(lm, planted, TEXTS, LABELS, ks=(2,), n_folds=4, seed=2, n_random=1)
    rows = torch.stack([_stream(lm, text) for text in TEXTS])
    is_why = torch.tensor([label == "why" for label in LABELS])
    (expected,) = sparse_probes(rows, is_why, ks=(2,), n_folds=4, seed=2)
    beside = found.coordinates[0]
    assert (beside.features, beside.weights, beside.accuracy) == (expected.features, expected.weights, expected.accuracy)
    assert found.l0 == pytest.approx(float((planted.encode(rows) > 0).sum(1).double().mean()))
    again = sae.probe_latents(lm, planted, TEXTS, LABELS, label="ex", ks=(2,), n_folds=4, seed=2, n_random=1)
    assert (again.label, again.latents[0].accuracy) == ("ex", found.latents[0].accuracy), (
        "which of two classes is meant is the same"
    )


def test_tokens_may_be_labelled_and_texts_grouped(lm, planted):
    labels = [[None, None, label] for label in LABELS]
    groups = [text[0] for text in TEXTS]
    found = sae.probe_latents(lm, planted, TEXTS, labels, pos=None, groups=groups, n_folds=4, ks=(1,), n_random=1)
    assert (found.n_texts, found.latents[0].accuracy) == (4, 1.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": ["a"] * 32}, "all 32 labels are 'a'"),
        ({"labels": ["a", "b", "c", "d"] * 8}, "the labels are 4 classes: name the one that is told from the others, a, b, c, d"),
        ({"label": "z"}, "there is no class 'z': name the one"),
        ({"ks": (0,)}, "k is 0; expected 1 to 40"),
        ({"ks": (33,)}, "k is 33; expected at most 32, the number of coordinates"),
        ({"n_random": 0}, "0 random dictionaries were asked for"),
        ({"n_folds": 99}, "99 folds"),
    ],
)
def test_mistakes_are_one_sentence(lm, planted, changes, sentence):
    options = {"labels": LABELS, "ks": (1,), "n_folds": 4, "n_random": 1} | changes
    with pytest.raises(ValueError, match=sentence):
        sae.probe_latents(lm, planted, TEXTS, options.pop("labels"), **options)


def test_dictionaries_that_do_not_fit_are_refused(lm, planted):
    narrow = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=16, d_sae=8, name=NAME))
    with pytest.raises(ValueError, match="is for 16 coordinates"):
        sae.probe_latents(lm, narrow, TEXTS, LABELS)
    both = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=64, d_sae=8, name=NAME, n_models=2))
    with pytest.raises(ValueError, match="a crosscoder reads 2 models at once"):
        sae.probe_latents(lm, both, TEXTS, LABELS)


def test_one_latent_that_tells_a_property_is_found():
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(400, 12, generator=generator)
    labels = torch.rand(400, generator=generator) < 0.2
    latents[:, 7] = labels * (1 + torch.rand(400, generator=generator))
    probes = sae.sparse_probes(latents, labels, ks=(1, 3))
    assert probes[0].features == (7,)
    assert probes[0].accuracy == 1.0
    assert probes[1].k == 3
    chance = sae.sparse_probes(latents[:, :7], labels, ks=(1,))[0].accuracy
    assert abs(chance - 0.5) < 0.15  # 80 rows are of the rarer class: a standard error of 0.04


def test_a_seed_beyond_64_bits_is_one_sentence():
    with pytest.raises(ValueError, match="a whole number of 64 bits"):
        sae.random_features(torch.ones(4), 2, seed=2**64)


def test_rows_of_one_text_are_not_both_learned_and_tested():
    """Twenty texts of twenty tokens that resemble each other, labelled at random: what tells texts apart tells nothing."""
    generator = torch.Generator().manual_seed(2)
    texts = torch.arange(20).repeat_interleave(20)
    latents = torch.rand(20, 30, generator=generator)[texts] + 0.01 * torch.rand(400, 30, generator=generator)
    labels = (torch.randperm(20, generator=generator) % 2 == 0)[texts]
    by_row, by_text = (sae.sparse_probes(latents, labels, groups=groups, ks=(20,))[0].accuracy for groups in (None, texts))
    assert by_row > 0.95
    assert by_text < 0.75  # 20 texts: two standard errors of 0.11 above chance


def test_latents_are_chosen_by_their_scaled_means():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(200) % 2 == 0
    latents = torch.rand(200, 3, generator=generator)
    latents[:, 0] *= 1000
    latents[:, 2] = labels.float()
    probe = sae.sparse_probes(latents, labels, ks=(1,))[0]
    assert probe.features == (2,)
    assert probe.accuracy == 1.0


def test_a_probe_is_the_logistic_regression_it_says():
    """Its weights are where the gradient of the penalised loss, both classes alike, is nothing."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.rand(200, 2, generator=generator).double()
    labels = latents[:, 0] + 0.3 * torch.randn(200, generator=generator) > 0.3
    probe = sae.sparse_probes(latents, labels, ks=(2,), l2=1e-3)[0]
    chosen, scale = list(probe.features), latents.square().mean(0).sqrt()
    w, b = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (probe.weights, probe.bias))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(latents[:, chosen] @ w + b, labels.double(), reduction="none")
    # two classes' weights are w/2 and -w/2, so l2/2 of their squares is l2/4 of w's
    both = 0.5 * (loss[labels].mean() + loss[~labels].mean()) + 0.25e-3 * (w * scale[chosen]).square().sum()
    for gradient in torch.autograd.grad(both, [w, b]):
        assert gradient.abs().max() < 1e-7
