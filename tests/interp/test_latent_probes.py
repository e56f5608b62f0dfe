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
