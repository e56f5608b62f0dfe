"""Effects of features, and what a run loses with a dictionary in it, are those of whole runs."""

import dataclasses

import pytest
import torch

import cutaway
from cutaway import LanguageModel, metrics, sae
from cutaway.interp.sae.activations import as_vectors
from cutaway.interp.sae.evaluation import evaluate
from cutaway.interp.sweep.lanes import Entry
from cutaway.tokenizers import CharTokenizer
from interp.spliced_dictionaries import EXACT, NAMES, a_dictionary, a_transcoder, plus_and_minus

# --- in sweeps


def effect_by_hand(model, made, tokens, feature, metric, *, with_error):
    """The metric of a whole run in which a feature is missing from the dictionary's sum."""

    def without(x, _):
        rows = as_vectors(x, made.config.name)
        latents = made.encode(rows)
        error = rows - made.decode(latents) if with_error else 0
        if feature is not None:
            latents[..., feature] = 0
        return (made.decode(latents) + error).reshape(x.shape)

    with torch.no_grad():
        return metric(model(tokens, hooks=cutaway.Hooks({made.config.name: without})))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_error", [False, True])
def test_effects_of_features_are_those_of_whole_runs(tiny_model, tokens, name, with_error):
    made, metric = a_dictionary(tiny_model, name), metrics.logit_diff(3, 5)
    found = sae.feature_effects(tiny_model, made, tokens, metric=metric, exact_top=1000, with_error=with_error)
    base = effect_by_hand(tiny_model, made, tokens, None, metric, with_error=with_error)
    torch.testing.assert_close(found.base, base, atol=EXACT, rtol=0)
    torch.testing.assert_close(found.clean, metric(tiny_model(tokens)), atol=EXACT, rtol=0)
    assert set(found.exact) == set(found.features)
    for feature, effect in found.exact.items():
        expected = effect_by_hand(tiny_model, made, tokens, feature, metric, with_error=with_error) - base
        torch.testing.assert_close(effect, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("reads", ["ln2.normalized", "resid_mid"])
@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("with_error", [False, True])
def test_effects_of_a_transcoders_features_are_those_of_whole_runs(tiny_model, make_tokens, with_error, has_skip, reads):
    """Each feature taken out, or given its latent of another run, by a hook that computes the whole MLP's output anew."""
    tokens, other, metric = make_tokens(), make_tokens(seed=2), metrics.logit_diff(3, 5)
    read, target = f"blocks.1.{reads}", "blocks.1.mlp_out"
    made = a_dictionary(tiny_model, read, target=target, d_out=16, has_skip=has_skip)
    _, there = cutaway.run_with_cache(tiny_model, other, read)

    @torch.no_grad()
    def by_hand(feature, others=None):
        seen = {}

        def write(y, name):
            x = seen[read]
            latents = made.encode(x)
            error = y - made.reconstruct(x, latents)
            if feature is not None:
                latents[..., feature] = 0 if others is None else others[..., feature]
            return made.reconstruct(x, latents) + (error if with_error else 0)

        return metric(tiny_model(tokens, hooks=cutaway.Hooks({read: lambda x, name: seen.update({name: x}), target: write})))

    for others in (None, other):
        found = sae.feature_effects(
            tiny_model, made, tokens, metric=metric, exact_top=1000, with_error=with_error, other_texts=others
        )
        torch.testing.assert_close(found.base, by_hand(None), atol=EXACT, rtol=0)
        torch.testing.assert_close(found.clean, metric(tiny_model(tokens)), atol=EXACT, rtol=0)
        assert set(found.exact) == set(found.features)
        assert max(effect.abs().max() for effect in found.exact.values()) > 0.01
        latents = None if others is None else made.encode(there[read])
        for feature, effect in found.exact.items():
            torch.testing.assert_close(effect, by_hand(feature, latents) - by_hand(None), atol=EXACT, rtol=0)


def test_estimates_of_a_transcoders_features_are_exact_where_the_way_to_the_metric_is_linear(make_model, make_tokens, tiny_config):
    model = make_model(tiny_config.replace(norm="none"))
    made = a_dictionary(model, "blocks.1.resid_mid", target="blocks.1.mlp_out", d_out=16)
    for others in (None, make_tokens(seed=2)):
        found = sae.feature_effects(model, made, make_tokens(), metric=metrics.logit_diff(3, 5), exact_top=1000, other_texts=others)
        assert len(found.features) > 5
        for place, feature in enumerate(found.features):
            torch.testing.assert_close(found.estimates[place], found.exact[feature], atol=EXACT, rtol=0)
        assert ("the other texts" in found.summary()) == (others is not None)


def test_other_texts_have_as_many_tokens(tiny_model, make_tokens):
    with pytest.raises(ValueError, match="rows of 9, 9 tokens and the other texts of 8, 8: give another text of the same length"):
        sae.feature_effects(
            tiny_model, a_dictionary(tiny_model), make_tokens(), metric=metrics.log_prob(3), other_texts=make_tokens(n_pos=8)
        )


def test_rows_of_different_lengths_end_where_they_end(tiny_model, make_tokens):
    tokenizer = CharTokenizer("".join(map(chr, range(65, 96))))
    lm = LanguageModel(tiny_model, tokenizer)
    made, metric = a_dictionary(tiny_model), metrics.logit_diff(3, 5)
    texts = ["ABDFGHBAC", "CAHFED"]
    found = sae.feature_effects(lm, made, texts, metric=metric, exact_top=1000)
    assert found.exact
    for row, text in enumerate(texts):
        alone = sae.feature_effects(lm, made, text, metric=metric, exact_top=1000)
        for feature, effect in alone.exact.items():
            torch.testing.assert_close(found.exact[feature][row], effect[0], atol=EXACT, rtol=0)
        estimates = dict(zip(found.features, found.estimates[:, row], strict=True))
        for feature, estimate in zip(alone.features, alone.estimates[:, 0], strict=True):
            torch.testing.assert_close(estimates[feature], estimate, atol=EXACT, rtol=0)


def test_estimates_are_exact_where_the_way_to_the_metric_is_linear(make_model, tokens, tiny_config):
    """After the last layer of a model without norms nothing but the unembedding reads the stream."""
    model = make_model(tiny_config.replace(norm="none"))
    made = a_dictionary(model, "blocks.1.resid_post")
    found = sae.feature_effects(model, made, tokens, metric=metrics.logit_diff(3, 5), exact_top=1000)
    for place, feature in enumerate(found.features):
        torch.testing.assert_close(found.estimates[place], found.exact[feature], atol=EXACT, rtol=0)


def test_a_feature_taken_out_starts_after_the_layer_and_where_it_fires(tiny_model, tokens):
    made = a_dictionary(tiny_model, "blocks.0.resid_post", d_sae=200)
    _, cache = cutaway.run_with_cache(tiny_model, tokens, "blocks.0.resid_post")
    x = cache["blocks.0.resid_post"]
    latents = made.encode(x)
    firing = (latents > 0).any(0).any(0).nonzero()[:, 0].tolist()
    spliced = sae.splice(made)
    values = torch.stack([spliced.new_value(row, None) for row in x])
    variants = sae.feature_edits(made, firing, values, latents, n_layers=2)
    plan = cutaway.plan_sweep(tiny_model, tokens, variants, metrics.log_prob(3), base_edits=[spliced])
    assert not plan.whole, plan
    for group in plan.groups:
        for lane in group.lanes:
            assert lane.entry == Entry(1, 0)  # the dictionary itself is not run again
            assert lane.start == int((latents[lane.row, :, firing[lane.variant]] > 0).nonzero()[0])
    n_fired = sum(bool((latents[row, :, feature] > 0).any()) for row in range(2) for feature in firing)
    assert sum(len(group.lanes) for group in plan.groups) == n_fired  # rows in which it does not fire are not run


# --- losses


def test_an_evaluation_is_four_runs(tiny_model, make_tokens):
    made, windows = a_dictionary(tiny_model), make_tokens(batch=5, n_pos=8)
    found = evaluate(tiny_model, made, windows, first=2)
    _, cache = cutaway.run_with_cache(tiny_model, windows, "blocks.0.resid_post")
    x = cache["blocks.0.resid_post"][:, 2:].reshape(-1, 16)
    replacements = {"loss": None, "spliced_loss": made, "zero_loss": torch.zeros_like, "mean_loss": lambda x: mean.expand_as(x)}
    mean = x.mean(0)

    def loss(replace):
        def hook(x, _):
            return x if replace is None else torch.cat([x[:, :2], replace(x[:, 2:])], dim=1)

        with torch.no_grad():
            logits = tiny_model(windows, hooks=cutaway.Hooks({"blocks.0.resid_post": hook}))
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()).item()

    for name, replace in replacements.items():
        assert getattr(found, name) == pytest.approx(loss(replace), abs=EXACT), name
    gap = found.zero_loss - found.loss
    if gap >= 0.1:
        assert found.recovered_of_zero == pytest.approx((found.zero_loss - found.spliced_loss) / gap)
    assert found.reconstruction.fvu == pytest.approx(((x - made(x)).square().sum() / (x - mean).square().sum()).item())
    assert found.reconstruction.n_rows == 5 * 6


def test_nothing_is_lost_with_plus_and_minus(tiny_model, make_tokens):
    found = evaluate(tiny_model, plus_and_minus(tiny_model, "blocks.0.resid_post"), make_tokens(batch=3))
    assert found.spliced_loss == pytest.approx(found.loss, abs=EXACT)
    assert found.reconstruction.fvu == pytest.approx(0, abs=EXACT)
    assert found.reconstruction.l0 == pytest.approx(16)


def test_a_share_of_hardly_any_loss_is_refused(tiny_model, make_tokens):
    """Where zeros cost nothing, nothing can be recovered of it: raw losses stay."""
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_out.weight *= 1e-4
        tiny_model.blocks[0].mlp.W_out.bias.zero_()
    found = evaluate(tiny_model, a_dictionary(tiny_model, "blocks.0.mlp_out"), make_tokens(batch=3))
    assert found.recovered_of_zero is None
    assert found.zero_loss == pytest.approx(found.loss, abs=0.01)
    assert "nothing to recover" in found.summary()


def test_what_is_recovered_stands_beside_the_dictionary(tiny_model, make_tokens):
    """The mean and zeros recover nothing: their losses are what is recovered from."""
    found = evaluate(tiny_model, a_dictionary(tiny_model, "blocks.0.mlp_out"), make_tokens(batch=3))
    found = dataclasses.replace(found, loss=1.0, spliced_loss=1.5, mean_loss=3.0, zero_loss=6.0)
    _, (own, dictionary, mean, zeros) = found.table()
    assert dictionary[2:] == ["75.0 %", "90.0 %"]
    assert own[2:] == mean[2:] == zeros[2:] == ["", ""]


def test_a_transcoder_is_evaluated(tiny_model, make_tokens):
    windows = make_tokens(batch=4)
    made = a_transcoder(tiny_model)
    found = evaluate(tiny_model, made, windows, first=0)
    logits = cutaway.run_with_edits(tiny_model, windows, sae.splice_transcoder(made))
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    assert found.spliced_loss == pytest.approx(loss.item(), abs=EXACT)


# --- bad input


def test_effects_are_shown_and_written(tiny_model, tokens, tmp_path):
    found = sae.feature_effects(tiny_model, a_dictionary(tiny_model), tokens, metric=metrics.logit_diff(3, 5), exact_top=5)
    assert len(found.exact) == 5
    assert "5 were tried" in found.summary()
    assert found.to_dict()["features"][0]["exact"] is not None
    assert "<svg" in found.report(tmp_path / "effects.html").read_text()
    best = found.ranked()
    assert [each.exact is not None for each in best] == [True] * 5 + [False] * (len(best) - 5)


def test_effects_say_where_each_feature_is_strongest(tiny_model, tokens):
    made = a_dictionary(tiny_model)
    found = sae.feature_effects(tiny_model, made, tokens, metric=metrics.logit_diff(3, 5), exact_top=0)
    _, cache = cutaway.run_with_cache(tiny_model, tokens, made.config.name)
    latents = made.encode(cache[made.config.name])
    assert len(found.places) == len(found.features) > 3
    for feature, place in zip(found.features, found.places, strict=True):
        strongest = latents[..., feature] == latents[..., feature].max()
        (row, pos), *_ = strongest.nonzero().tolist()
        assert place == f"text {row}, {pos} {tokens[row, pos]}"
    assert found.to_dict()["places"][str(found.features[0])] == found.places[0]
    assert found.table()[0] == ["feature", "estimate", "exact", "strongest at"]


def test_evaluations_are_shown_and_written(tiny_model, make_tokens, tmp_path):
    found = evaluate(tiny_model, a_dictionary(tiny_model), make_tokens(batch=3))
    assert "nats a token" in found.summary()
    assert found.to_dict()["fvu"] == found.reconstruction.fvu
    assert (tmp_path / "page.html").exists() is False
    assert "<svg" in found.report(tmp_path / "page.html").read_text()
