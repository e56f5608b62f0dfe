"""Where features fire and what they stand for: against loops over every window, and pages that show it."""

import dataclasses
import math
from html.parser import HTMLParser

import pytest
import torch

from cutaway import LanguageModel, run_with_cache, sae
from cutaway.interp.sae.activations import width_of
from cutaway.interp.sae.pages import context_at
from cutaway.tokenizers import CharTokenizer

CHARACTERS = "".join(map(chr, range(65, 94))) + "\n<"


@pytest.fixture
def lm(tiny_model):
    return LanguageModel(tiny_model, CharTokenizer(CHARACTERS))


def a_dictionary(model, name="blocks.0.resid_post", *, d_sae=20, k=3):
    shape = sae.DictionaryConfig(kind="topk", d_in=width_of(model, name), d_sae=d_sae, k=k, name=name)
    return sae.make_dictionary(shape, generator=torch.Generator().manual_seed(4)).double().eval()


def latents_of(lm, made, windows, first):
    _, cache = run_with_cache(lm.model, windows, made.config.name)
    latents = made.encode(cache[made.config.name])
    latents[:, :first] = 0
    return latents


@pytest.mark.parametrize("max_gib", [0.5, 1e-7])
def test_contexts_are_the_strongest_windows(lm, make_tokens, max_gib):
    made, windows = a_dictionary(lm.model), make_tokens(batch=40, n_pos=8)
    found = sae.find_contexts(lm, made, windows, [2, 7, 11], n_contexts=4, first=2, max_gib=max_gib)
    latents = latents_of(lm, made, windows, 2)
    for place, feature in enumerate(found.features):
        values = latents[..., feature]
        by_window = sorted(range(40), key=lambda window: -values[window].max().item())[:4]
        expected = [window for window in by_window if values[window].max() > 0]
        assert found.windows[place].tolist() == expected + [-1] * (4 - len(expected))
        torch.testing.assert_close(found.values[place, : len(expected)], values[expected].float(), atol=1e-6, rtol=1e-6)
        assert found.peaks(place) == [(window, int(values[window].argmax())) for window in expected]
        assert found.density[place].item() == pytest.approx((values > 0).sum().item() / (40 * 6))
        torch.testing.assert_close(
            found.sampled[place].sort().values, values[values > 0].float().sort().values, atol=1e-6, rtol=1e-6
        )


def test_agreement_counts_the_commonest_token(lm, make_tokens):
    made, windows = a_dictionary(lm.model), make_tokens(batch=40, n_pos=8)
    found = sae.find_contexts(lm, made, windows, [2], n_contexts=10)
    tokens = [int(windows[window, pos]) for window, pos in found.peaks(0)]
    assert found.agreement(0, windows) == max(map(tokens.count, tokens)) / len(tokens)
    assert found.agreement(0, windows, words=lambda token: 0) == 1.0


def test_features_that_fire_are_drawn_by_the_seed(lm, make_tokens):
    made, windows = a_dictionary(lm.model, d_sae=200), make_tokens(batch=10, n_pos=8)
    live = set((latents_of(lm, made, windows, 1) > 0).any(0).any(0).nonzero()[:, 0].tolist())
    assert len(live) < 200
    one = sae.find_contexts(lm, made, windows, n_features=8, seed=1)
    assert set(one.features) <= live
    assert len(one.features) == 8
    assert one.features == sae.find_contexts(lm, made, windows, n_features=8, seed=1).features
    assert one.features != sae.find_contexts(lm, made, windows, n_features=8, seed=2).features
    assert set(sae.find_contexts(lm, made, windows, n_features=1000).features) == live
    assert set(sae.feature_density(lm, made, windows).nonzero()[:, 0].tolist()) == live


def test_logit_effects_are_the_change_of_the_logits_at_a_norm_that_stays(make_model, tiny_config, tokens):
    """With the last norm's scale kept, adding a direction after the last layer moves the logits by just this over the scale."""
    for norm in ("layernorm", "rmsnorm", "none"):
        model = make_model(tiny_config.replace(norm=norm))
        made = a_dictionary(model, "blocks.1.resid_post")
        _, cache = run_with_cache(model, tokens, ["blocks.1.resid_post", *(["ln_final.scale"] if norm != "none" else [])])
        x = cache["blocks.1.resid_post"]
        scale = cache["ln_final.scale"] if norm != "none" else torch.ones(1).double()

        def logits(x, norm=norm, model=model, scale=scale):
            final = model.unembed.ln_final
            if norm == "none":
                return model.unembed.W_U(x)
            centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
            bias = 0 if final.bias is None else final.bias
            return model.unembed.W_U(centred / scale * final.weight + bias)

        torch.testing.assert_close(logits(x), model(tokens), atol=1e-10, rtol=0)  # float64: the same sums in another order
        moved = (logits(x + made.W_dec[5]) - logits(x)) * scale
        expected = (moved - moved.mean(-1, keepdim=True))[0, 0]
        torch.testing.assert_close(sae.logit_effects(model, made, [5])[0], expected, atol=1e-10, rtol=0)


def test_heads_write_through_their_matrix(tiny_model):
    made = a_dictionary(tiny_model, "blocks.1.attn.z")
    direct = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=16, d_sae=20, name="blocks.1.attn_out")).double()
    with torch.no_grad():
        direct.W_dec.copy_(made.W_dec @ tiny_model.blocks[1].attn.W_O.weight.T)
    found = sae.logit_effects(tiny_model, made, [0, 3])
    torch.testing.assert_close(found, sae.logit_effects(tiny_model, direct, [0, 3]), atol=1e-10, rtol=0)


def test_directions_that_are_not_of_the_stream_have_no_logits(lm, make_tokens):
    made = a_dictionary(lm.model, "blocks.1.mlp.post")
    with pytest.raises(ValueError, match=r"directions of blocks.1.mlp.post are not of the residual stream"):
        sae.logit_effects(lm.model, made, [0])
    found = sae.describe_features(lm, made, make_tokens(batch=10, n_pos=8), n_features=3)
    assert not found.has_logits
    assert all(each.raised == () for each in found.features)


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.loads, self.open, self.grounds = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "br", "path", "use"):
            self.open.append(tag)
        if tag == "a":
            self.links += [attrs["href"]] * (not attrs["href"].startswith("#"))
        if "src" in attrs or tag in ("script", "link"):
            self.loads.append((tag, attrs))
        if "background" in attrs.get("style", ""):
            self.grounds.append(float(attrs["style"].rpartition(" ")[2].rstrip(")")))

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, tag


def read(path):
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.loads == [], "a page takes nothing from elsewhere"
    return page


def test_pages_are_written_and_lead_to_each_other(lm, make_tokens, tmp_path):
    made, windows = a_dictionary(lm.model), make_tokens(batch=40, n_pos=8)
    found = sae.describe_features(lm, made, windows, [2, 7, 11], n_contexts=4)
    index = found.write(tmp_path / "features", settings={"corpus": "drawn"})
    names = ["feature-000002.html", "feature-000007.html", "feature-000011.html"]
    assert sorted(path.name for path in index.parent.iterdir()) == [*names, "index.html"]
    assert read(index).links == names
    assert read(index.parent / names[1]).links[:3] == ["index.html", names[0], names[2]]
    text = (index.parent / names[1]).read_text()
    assert "<script" not in text
    grounds = read(index.parent / names[1]).grounds
    assert max(grounds) == 0.75  # the greatest value has the deepest ground
    (each,) = [each for each in found.features if each.feature == 7]
    assert f"{each.strongest:.2f}" in text
    assert "the numbers are to be divided by the norm&#39;s scale there" in text
    assert len(each.raised) == 10
    assert [value for _, value in each.raised] == sorted((value for _, value in each.raised), reverse=True)


def test_a_report_has_the_contexts_of_the_first_features(lm, make_tokens, tmp_path):
    made, windows = a_dictionary(lm.model), make_tokens(batch=40, n_pos=8)
    found = sae.describe_features(lm, made, windows, list(range(18)), n_contexts=4)
    text = found.report(tmp_path / "few.html").read_text()
    assert read(tmp_path / "few.html").grounds  # tokens with an activation
    assert text.count('<ol class="contexts">') == 15
    assert "Contexts of 3 more are in the folder" in text
    assert "% of the tokens" in text  # each feature has its own bar


def test_white_space_at_the_peaks_is_said(lm, make_tokens):
    found = sae.describe_features(lm, a_dictionary(lm.model), make_tokens(batch=10, n_pos=8), [3])
    spaces = dataclasses.replace(found.features[0], token="", agreement=0.9)
    found = dataclasses.replace(found, features=(spaces,))
    headers, (row,) = found.table()
    assert row[headers.index("at the peak")] == "white space 90 %"


def test_tokens_raised_most_are_those_of_the_logits(lm, make_tokens):
    made = a_dictionary(lm.model)
    found = sae.describe_features(lm, made, make_tokens(batch=10, n_pos=8), [3])
    effects = sae.logit_effects(lm.model, made, [3])[0]
    best = effects.argsort(descending=True)
    assert [text for text, _ in found.features[0].raised[:3]] == [lm.tokenizer.decode([int(token)]) for token in best[:3]]
    assert [text for text, _ in found.features[0].lowered[:3]] == [lm.tokenizer.decode([int(token)]) for token in best.flip(0)[:3]]


def test_features_stand_for_a_token_when_their_contexts_do(lm, make_tokens):
    """A feature that reads one token's embedding agrees on it in all its contexts."""
    windows = make_tokens(batch=60, n_pos=8)
    made = a_dictionary(lm.model, "embed", k=20)
    with torch.no_grad():
        direction = lm.model.embed.W_E[9] - lm.model.embed.W_E.mean(0)
        made.W_enc[:, 4] = direction / direction.norm()
        scores = lm.model.embed.W_E @ made.W_enc[:, 4]
        made.b_enc[4] = -(scores.sort().values[-2] + 1e-6)
        assert int(scores.argmax()) == 9
    found = sae.describe_features(lm, made, windows, [4], n_contexts=5)
    (each,) = found.features
    assert (each.token, each.agreement) == (lm.tokenizer.decode([9]).lower(), 1.0)
    assert each.density == pytest.approx((windows[:, 1:] == 9).double().mean().item())
    assert found.agreeing == 1.0
    assert "100 % agree on a token" in found.summary()
    assert math.isclose(found.to_dict()["features"][0]["agreement"], 1.0)


def test_what_cannot_be_shown(lm, make_tokens, tmp_path):
    made, windows = a_dictionary(lm.model), make_tokens(batch=4, n_pos=8)
    with pytest.raises(ValueError, match="there is no feature 20; there are 20"):
        sae.find_contexts(lm, made, windows, [20])
    with pytest.raises(ValueError, match="first is 8 and the windows have 8 tokens"):
        sae.find_contexts(lm, made, windows, first=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        sae.describe_features(lm, made, windows, [1]).write(tmp_path / "file")


@pytest.mark.parametrize(("peak", "n_before"), [(150, 130), (10, 10), (295, 195)])
def test_a_context_is_as_many_letters_as_two_lines_take(lm, peak, n_before):
    """Of a character-level model that is 200 tokens: one side has what the other lacks."""
    tokens = torch.arange(300) % 20
    context = context_at(lm, tokens, torch.arange(300.0), peak)
    assert len(context.tokens) == 200
    assert context.peak == n_before
    assert context.values == list(range(peak - n_before, peak - n_before + 200))
    assert (context.is_cut_before, context.is_cut_after) == (peak > n_before, peak - n_before + 200 < 300)


def test_a_context_of_long_tokens_is_no_wider(lm, monkeypatch):
    words = ["x" * (1 + place % 30) for place in range(100)]
    monkeypatch.setattr("cutaway.interp.sae.pages.token_texts", lambda lm, tokens: [words[int(token)] for token in tokens])
    context = context_at(lm, torch.arange(100), torch.zeros(100), 50)
    assert 170 <= sum(map(len, context.tokens)) <= 200  # one more token would not fit
    assert context.tokens[context.peak] == words[50]
    alone = context_at(lm, torch.tensor([0, 0, 0]), torch.zeros(3), 1)
    assert list(alone.tokens) == [words[0]] * 3
