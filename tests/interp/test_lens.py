"""The logit lens: held against the final norm, the unembedding, softmax, ranks and KL written out."""

import json
import string
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from cutaway.hooks import recording
from cutaway.interp.lens import lens_scores, logit_lens, mean_kl, state_names, states
from cutaway.interp.lens.reading import LensReading
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer

LETTERS = string.ascii_lowercase + " .,!\n"  # 31 characters, as many as the tiny vocabulary has


@pytest.fixture
def lm(tiny_model):
    return LanguageModel(tiny_model, CharTokenizer.fit(LETTERS))


@pytest.fixture
def make_lm(tiny_config, make_model):
    return lambda **changes: LanguageModel(make_model(replace(tiny_config, **changes)), CharTokenizer.fit(LETTERS))


def all_states(model, tokens, names):
    hooks, kept = recording(*names)
    with torch.no_grad():
        logits = model(tokens, hooks=hooks)
    return kept, logits


def read_by_hand(model, resid, final, norm):
    """The final norm and the unembedding, written out."""
    ln, W_U = model.unembed.ln_final, model.unembed.W_U
    if norm != "none" and model.config.norm != "none":
        is_layernorm = model.config.norm == "layernorm"
        centred, of = (x - x.mean(-1, keepdim=True) if is_layernorm else x for x in (resid, resid if norm == "own" else final))
        scale = ((of**2).sum(-1, keepdim=True) / of.shape[-1] + ln.eps) ** 0.5
        resid = centred / scale * ln.weight + (0 if ln.bias is None else ln.bias)
    logits = torch.einsum("bpd,vd->bpv", resid, W_U.weight) + (0 if W_U.bias is None else W_U.bias)
    return logits - torch.logsumexp(logits, -1, keepdim=True)


@pytest.mark.parametrize("norm", ["own", "frozen", "none"])
def test_scores_are_those_written_out(variant, make_model, make_tokens, norm):
    if variant.d_vocab_out < variant.d_vocab:
        pytest.skip("its answers are not its tokens: a test of its own below")
    model, tokens = make_model(variant), make_tokens()
    names = state_names(variant, include_mid=variant.block == "sequential" and variant.d_mlp > 0)
    kept, logits = all_states(model, tokens, names)
    scores = lens_scores(LanguageModel(model, CharTokenizer.fit(LETTERS)), tokens, names, norm=norm, target=4, top_k=3)
    final = logits.log_softmax(-1)
    for number, name in enumerate(names):
        expected = read_by_hand(model, kept[name], kept[names[-1]], norm)
        order = expected.argsort(-1, descending=True)
        close = {"rtol": 0, "atol": 1e-10}
        torch.testing.assert_close(scores.log_probs[number], expected[..., 4], **close)
        torch.testing.assert_close(scores.probs[number], expected[..., 4].exp(), **close)
        torch.testing.assert_close(scores.kl[number], (final.exp() * (final - expected)).sum(-1), **close)
        assert torch.equal(scores.top_tokens[number], order[..., :3])
        torch.testing.assert_close(scores.top_probs[number], expected.gather(-1, order[..., :3]).exp(), **close)
        assert torch.equal(scores.ranks[number], (order == 4).int().argmax(-1) + 1)
    torch.testing.assert_close(mean_kl(model, tokens, names), lens_scores_kl(model, tokens, names), rtol=0, atol=1e-10)


def lens_scores_kl(model, tokens, names):
    scores = lens_scores(LanguageModel(model, CharTokenizer.fit(LETTERS)), tokens, names)
    return scores.kl.mean((1, 2))


def test_the_last_state_is_the_model_bit_for_bit(variant, make_model, make_tokens):
    model, tokens = make_model(variant), make_tokens()
    with torch.no_grad():
        expected = model(tokens).log_softmax(-1)
    (part,) = states.distributions(model, tokens, state_names(variant))
    with torch.no_grad():
        last = list(part.by_state)[-1]
    assert torch.equal(last, expected)
    assert torch.equal(part.final, expected)
    assert mean_kl(model, tokens, state_names(variant))[-1] == 0


def test_states_are_before_the_first_block_and_after_each_in_order(tiny_config):
    assert state_names(tiny_config) == ["blocks.0.resid_pre", "blocks.0.resid_post", "blocks.1.resid_post"]
    names = state_names(tiny_config, include_mid=True)
    assert [states.state_label(name) for name in names] == ["embed", "0 mid", "0", "1 mid", "1"]
    assert [states.state_place(name) for name in names] == [-1, -0.5, 0, 0.5, 1]


def test_few_logits_are_held_at_a_time(lm, monkeypatch):
    tokens, names = lm.tokens("a long text"), state_names(lm.config)
    whole = lens_scores(lm, tokens, names, norm="frozen")
    n_read = []
    forward = type(lm.model.unembed).forward
    monkeypatch.setattr(
        type(lm.model.unembed), "forward", lambda self, x, **options: (n_read.append(x.shape[1]), forward(self, x, **options))[1]
    )
    monkeypatch.setattr(states, "_LOGITS_AT_ONCE", 4 * 31)
    parts = lens_scores(lm, tokens, names, norm="frozen")
    assert set(n_read) == {4, 3}
    assert torch.equal(parts.followed, whole.followed)
    assert torch.equal(parts.ranks, whole.ranks)
    torch.testing.assert_close(parts.kl, whole.kl, rtol=0, atol=1e-10)


def test_the_next_token_is_followed_and_at_the_end_the_models_answer(lm):
    reading = logit_lens(lm, "to be")
    assert reading.tokens == tuple("to be")
    assert reading.followed == (*"o be", reading.words[-1][-1][0])
    assert reading.n_next == 4
    with torch.no_grad():
        log_probs = lm.model(lm.tokens("to be")).log_softmax(-1)
    following = lm.tokens("o be")
    expected = -log_probs[0, :4].gather(-1, following[0, :, None]).mean()
    torch.testing.assert_close(reading.loss[-1], expected, rtol=0, atol=1e-10)


def test_a_target_is_followed_everywhere(lm):
    reading = logit_lens(lm, "to be", target="x")
    assert (reading.followed, reading.n_next) == (("x",) * 5, 0)
    assert torch.equal(reading.probs, logit_lens(lm, "to be", target=lm.tokenizer.encode("x")[0]).probs)


@pytest.mark.parametrize("changes", [{"d_vocab_out": 7, "tie_embeddings": False}, {"is_causal": False}])
def test_a_model_of_other_answers_is_followed_in_its_own(make_lm, changes):
    lm = make_lm(**changes)
    reading = logit_lens(lm, "to be")
    assert reading.n_next == 0
    assert reading.followed == tuple(at[0] for at in reading.words[-1])
    assert set(reading.ranks[-1].tolist()) == {1}
    if "d_vocab_out" in changes:
        assert set(reading.followed) <= set("0123456")
    reading.to_json()


def test_ids_are_read_as_their_text_is(lm):
    reading = logit_lens(lm, "to be")
    for ids in (lm.tokens("to be"), lm.tokens("to be")[0], lm.tokens("to be")[0].tolist()):
        again = logit_lens(lm, ids)
        assert again.tokens == reading.tokens
        assert torch.equal(again.kl, reading.kl)


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({}, {"text": "a text that is too long"}, "do not fit the context of n_ctx 12"),
        ({}, {"text": ""}, "no tokens"),
        ({}, {"text": torch.tensor([[1, 2], [3, 4]])}, r"the ids have the shape \[2, 2\]; expected one row"),
        ({}, {"text": [1, 2], "bos": True}, "bos is for a text"),
        ({}, {"target": "two"}, "two' is not one token but"),
        ({}, {"target": 31}, "the target is token 31; expected 0 to 30"),
        ({}, {"top_k": 0}, "top_k is 0; expected at least 1"),
        ({"d_mlp": 0}, {"include_mid": True}, "no mid-layers: its blocks have no MLP; leave out include_mid"),
        ({"block": "parallel"}, {"include_mid": True}, "no mid-layers: attention and MLP are side by side"),
        ({"n_layers": 0}, {}, "the model has no layers"),
    ],
)
def test_mistakes_are_named(make_lm, changes, options, sentence):
    options = {"text": "a", **options}
    with pytest.raises(ValueError, match=sentence):
        logit_lens(make_lm(**changes), options.pop("text"), **options)


def test_the_model_is_left_as_it_was(lm):
    lm.model.train()
    logit_lens(lm, "to be")
    assert lm.model.training


def shown(reading: LensReading) -> str:
    console = Console(width=80, record=True, color_system=None)
    reading.show(console)
    return console.export_text()


def test_what_is_shown_fits_a_terminal_and_says_what_is_left_out(make_lm):
    lm = make_lm(n_ctx=64)
    text = "now is the winter of our discontent"
    reading = logit_lens(lm, text, include_mid=True)
    out = shown(reading)
    title, _summary, *views = out.splitlines()
    assert title == "Logit lens"
    assert max(map(len, views)) <= 80
    assert "at the last 12 of 35 positions" in out
    assert "0 mid" in out
    assert len(reading.figures()) == 2
    numbers = json.loads(reading.to_json())
    assert numbers["layers"] == ["embed", "0 mid", "0", "1 mid", "1"]
    assert len(numbers["top"]) == 5
    assert len(numbers["top"][0]) == len(numbers["kl"][0]) == 35
    assert len(numbers["top"][0][0]) == 5


def test_the_summary_tells_where_the_answer_comes_up(lm):
    reading = logit_lens(lm, "to be")
    ranks = reading.ranks[:, -1].tolist()
    assert ranks[-1] == 1
    assert f"probability {reading.probs[-1, -1]:.2f} at the end" in reading.summary()
    least = logit_lens(lm, "to be", top_k=31).words[-1][-1][-1]
    assert "is never settled on: rank 31" in logit_lens(lm, "to be", target=least).summary()
    assert "final scale" in logit_lens(lm, "to be", norm="frozen").summary()
    assert "No norm" in logit_lens(lm, "to be", norm="none").summary()


def test_one_token_is_enough(lm):
    reading = logit_lens(lm, "a")
    assert reading.n_next == 0
    assert "loss" not in reading.table()[0][2]
    assert len(reading.figures()) == 2
    shown(reading)
