"""Dictionaries in the run of a model: what leaves it as it is, what takes everything away, and features as nodes."""

import dataclasses

import pytest
import torch

import cutaway
from cutaway import LanguageModel, edits, metrics, sae
from cutaway.interp.generating import EditedTransformer
from cutaway.interp.sae.activations import as_vectors, width_of
from cutaway.interp.sae.evaluation import evaluate
from cutaway.interp.sweep.lanes import Entry
from cutaway.model import KVCache
from cutaway.tokenizers import CharTokenizer

# float64: the same sums in another order
EXACT = 1e-10

NAMES = [
    "blocks.0.resid_post",
    "blocks.1.resid_post",
    "blocks.1.resid_pre",
    "blocks.0.attn.z",
    "blocks.0.mlp_out",
    "blocks.1.resid_mid",
]


def a_dictionary(model, name="blocks.0.resid_post", kind="topk", *, d_sae=40, seed=0, **fields):
    config = sae.DictionaryConfig(
        kind=kind, d_in=width_of(model, name), d_sae=d_sae, name=name, **{**({"k": 4} if "topk" in kind else {}), **fields}
    )
    generator = torch.Generator().manual_seed(seed)
    made = sae.make_dictionary(config, generator=generator).double().eval()
    with torch.no_grad():
        made.b_enc += 0.1 * torch.randn(d_sae, generator=generator)
        made.b_dec += 0.1 * torch.randn(config.d_out, generator=generator)
    return made


def plus_and_minus(model, name):
    """The dictionary [I; -I] under ReLU: every coordinate's positive and its negative part."""
    d = width_of(model, name)
    made = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=d, d_sae=2 * d, name=name)).double()
    both = torch.cat([torch.eye(d), -torch.eye(d)]).double()
    with torch.no_grad():
        made.W_dec.copy_(both)
        made.W_enc.copy_(both.T)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_plus_and_minus_leave_the_logits(tiny_model, tokens, name):
    logits = cutaway.run_with_edits(tiny_model, tokens, [sae.splice(plus_and_minus(tiny_model, name))])
    torch.testing.assert_close(logits, tiny_model(tokens), atol=EXACT, rtol=0)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("name", NAMES)
def test_with_its_error_any_dictionary_leaves_the_logits(tiny_model, tokens, name, kind):
    made = a_dictionary(tiny_model, name, kind)
    logits = cutaway.run_with_edits(tiny_model, tokens, [sae.splice(made, with_error=True)])
    torch.testing.assert_close(logits, tiny_model(tokens), atol=EXACT, rtol=0)
    without = cutaway.run_with_edits(tiny_model, tokens, [sae.splice(made)])
    assert (without - logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_of_zeros_is_zero_ablation(tiny_model, tokens, name):
    made = a_dictionary(tiny_model, name)
    for weight in made.parameters():
        weight.data.zero_()
    for pos in (None, [2, 5]):
        spliced = cutaway.run_with_edits(tiny_model, tokens, [sae.splice(made, pos=pos)])
        zeroed = cutaway.run_with_edits(tiny_model, tokens, [edits.zero(name, pos=pos)])
        torch.testing.assert_close(spliced, zeroed, atol=0, rtol=0)


def a_transcoder(model, *, has_skip=False, seed=0):
    return a_dictionary(
        model, "blocks.1.ln2.normalized", target="blocks.1.mlp_out", d_out=model.config.d_model, has_skip=has_skip, seed=seed
    )


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("lengths", [None, [9, 6]])
def test_a_transcoder_takes_the_place_of_what_it_predicts(tiny_model, tokens, has_skip, lengths):
    made = a_transcoder(tiny_model, has_skip=has_skip)
    with torch.no_grad():
        if has_skip:
            made.W_skip += 0.1 * torch.randn(made.W_skip.shape, generator=torch.Generator().manual_seed(3))
        _, cache = cutaway.run_with_cache(tiny_model, tokens, "blocks.1.ln2.normalized")
        expected = tiny_model(
            tokens, hooks=cutaway.Hooks({"blocks.1.mlp_out": lambda y, name: made(cache["blocks.1.ln2.normalized"])})
        )
    logits = cutaway.run_with_edits(tiny_model, tokens, sae.splice_transcoder(made), lengths=lengths)
    for row, length in enumerate(lengths or [9, 9]):
        torch.testing.assert_close(logits[row, :length], expected[row, :length], atol=EXACT, rtol=0)
    kept = cutaway.run_with_edits(tiny_model, tokens, sae.splice_transcoder(made, with_error=True))
    torch.testing.assert_close(kept, tiny_model(tokens), atol=EXACT, rtol=0)


class Stopped(Exception):
    pass


def test_a_run_that_was_stopped_leaves_nothing_behind(tiny_model, make_tokens):
    """The next run with the same edits reads its own activations, not those that the stopped one read and never used."""
    spliced = sae.splice_transcoder(a_transcoder(tiny_model))
    first, second = make_tokens(seed=1), make_tokens(seed=2)
    expected = cutaway.run_with_edits(tiny_model, second, spliced)

    def stop(x):
        raise Stopped

    with pytest.raises(Stopped):  # between what the transcoder reads and what it writes
        cutaway.run_with_edits(tiny_model, first, [*spliced, edits.apply("blocks.1.mlp.post", stop)])
    torch.testing.assert_close(cutaway.run_with_edits(tiny_model, second, spliced), expected, atol=0, rtol=0)


def test_two_runs_at_once_do_not_mix(tiny_model, make_tokens):
    spliced = sae.splice_transcoder(a_transcoder(tiny_model))
    first, second = make_tokens(seed=1), make_tokens(seed=2)
    alone, inner = [cutaway.run_with_edits(tiny_model, each, spliced) for each in (first, second)], []

    def run_another(x):
        inner.append(cutaway.run_with_edits(tiny_model, second, spliced))
        return x

    outer = cutaway.run_with_edits(tiny_model, first, [*spliced, edits.apply("blocks.1.mlp.post", run_another)])
    torch.testing.assert_close(outer, alone[0], atol=0, rtol=0)
    torch.testing.assert_close(inner[0], alone[1], atol=0, rtol=0)


def test_a_transcoder_works_in_sweeps_and_while_text_is_generated(tiny_model, tokens):
    made = a_transcoder(tiny_model)
    for pos in (None, [3, 5]):
        spliced = sae.splice_transcoder(made, pos=pos)
        logits = cutaway.run_with_edits(tiny_model, tokens, spliced)
        found = cutaway.sweep(tiny_model, tokens, [spliced, []], metrics.log_prob(3))
        torch.testing.assert_close(found[0], metrics.log_prob(3)(logits), atol=EXACT, rtol=0)
        torch.testing.assert_close(found[1], metrics.log_prob(3)(tiny_model(tokens)), atol=EXACT, rtol=0)
        edited, kv = EditedTransformer(tiny_model, spliced), KVCache(tiny_model.config, batch=2, dtype=torch.float64)
        steps = [edited(tokens[:, :4], kv=kv), *(edited(each, kv=kv) for each in tokens[:, 4:].split(1, dim=1))]
        torch.testing.assert_close(torch.cat(steps, dim=1), logits, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"source": "blocks.1.resid_post"}, "'blocks.1.resid_post' is computed after 'blocks.1.mlp_out': read what comes before"),
        ({"source": "blocks.1.hook_mlp_out"}, "expected one other activation"),
        ({"source": "blocks.*.mlp_in"}, "expected one other activation"),
        ({"source": "blocks.0.nothing"}, "computes no 'blocks.0.nothing'"),
        ({"source": "embed", "reads": "selection"}, "only a function does, and with reads='all'"),
    ],
)
def test_sources_that_cannot_be_read(tiny_model, tokens, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        cutaway.run_with_edits(tiny_model, tokens, [edits.apply("blocks.1.mlp_out", lambda y, x: y, **fields)])


# --- one feature


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_error", [False, True])
@pytest.mark.parametrize(("change", "value"), [("ablate", 0.0), ("set", 1.5)])
def test_one_feature_is_changed(tiny_model, tokens, name, with_error, change, value):
    made = a_dictionary(tiny_model, name)

    def by_hand(x, _):
        rows = as_vectors(x, name)
        latents = made.encode(rows)
        error = rows - made.decode(latents) if with_error else 0
        latents[..., [3, 8]] = value
        return (made.decode(latents) + error).reshape(x.shape)

    with torch.no_grad():
        expected = tiny_model(tokens, hooks=cutaway.Hooks({name: by_hand}))
    edit = sae.edit_feature(made, [3, 8], change, value=value, with_error=with_error)
    torch.testing.assert_close(cutaway.run_with_edits(tiny_model, tokens, [edit]), expected, atol=EXACT, rtol=0)


def test_steering_adds_the_direction_and_travels(tiny_model, tokens):
    made = a_dictionary(tiny_model)
    edit = sae.edit_feature(made, 7, "steer", value=-2.0, pos=4)
    again = edits.Edit.from_dict(edit.to_dict())
    expected = cutaway.run_with_edits(tiny_model, tokens, [edits.add("blocks.0.resid_post", -2 * made.W_dec[7].detach(), pos=4)])
    torch.testing.assert_close(cutaway.run_with_edits(tiny_model, tokens, [again]), expected, atol=0, rtol=0)


def test_a_splice_works_while_text_is_generated(tiny_model, tokens):
    made = plus_and_minus(tiny_model, "blocks.0.resid_post")
    edited = EditedTransformer(tiny_model, [sae.splice(made)])
    torch.testing.assert_close(edited(tokens), tiny_model(tokens), atol=EXACT, rtol=0)


# --- in sweeps


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_goes_on_from_the_layer_of_the_dictionary(tiny_model, tokens, name):
    made = a_dictionary(tiny_model, name)
    variants = [[sae.splice(made)], [sae.edit_feature(made, 3, "set", value=2.0)], [sae.splice(made, pos=[5, 6])]]
    plan = cutaway.plan_sweep(tiny_model, tokens, variants, metrics.log_prob(3))
    assert not plan.whole, plan
    first = min(lane.entry.layer for group in plan.groups for lane in group.lanes)
    assert first == edits.site_of(name).layer
    assert {lane.start for group in plan.groups for lane in group.lanes} == {0, 5}
    found = plan.run()
    for variant, scores in zip(variants, found, strict=True):
        logits = cutaway.run_with_edits(tiny_model, tokens, variant)
        torch.testing.assert_close(scores, metrics.log_prob(3)(logits), atol=EXACT, rtol=0)


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


def test_dictionaries_that_do_not_fit(tiny_model, make_model, tiny_config, tokens):
    narrow = make_model(tiny_config.replace(d_model=8, n_heads=2))
    made = a_dictionary(tiny_model)
    with pytest.raises(ValueError, match=r"is for 16 coordinates of 'blocks.0.resid_post' and this model has 8"):
        sae.check_fits(made, narrow)
    with pytest.raises(ValueError, match="is for 16 coordinates"):
        sae.feature_effects(narrow, made, tokens, metric=metrics.log_prob(1))
    far = a_dictionary(make_model(tiny_config.replace(n_layers=4)), "blocks.3.resid_post")
    with pytest.raises(ValueError, match=r"computes no 'blocks.3.resid_post'"):
        evaluate(tiny_model, far, tokens)
    theirs = sae.make_dictionary(
        sae.DictionaryConfig(kind="relu", d_in=16, d_sae=4, name="blocks.0.resid_post", model_sha256="ab" * 32)
    )
    with pytest.raises(
        ValueError,
        match=r"trained on another model \(its name is not known, sha256 abababababab\) than this \(sha256 cdcdcdcdcdcd\)",
    ):
        sae.check_fits(theirs, tiny_model, model_sha256="cd" * 32)
    theirs.config = dataclasses.replace(theirs.config, model="runs/demo")
    with pytest.raises(ValueError, match=r"was trained on another model \(runs/demo, sha256 abab.*\) than this \(sha256 cdcd"):
        sae.check_fits(theirs, tiny_model, model_sha256="cd" * 32)
    made.config = dataclasses.replace(made.config, model="runs/demo")
    with pytest.raises(ValueError, match=r"take the model it was trained on \(runs/demo\)"):
        sae.check_fits(made, narrow)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda model: sae.splice(a_transcoder(model)), "use splice_transcoder"),
        (lambda model: sae.splice_transcoder(a_dictionary(model)), "use splice"),
        (lambda model: sae.edit_feature(a_dictionary(model), 40), "there is no feature 40; there are 40, 0 to 39"),
        (lambda model: sae.edit_feature(a_dictionary(model), 1, "steer", with_error=False), "steering adds to the activation"),
        (
            lambda model: sae.splice(sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=4, d_sae=4))),
            "which activation it is for",
        ),
        (
            lambda model: sae.splice(sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=4, d_sae=4, n_models=2))),
            "2 models at once",
        ),
    ],
)
def test_what_cannot_be_spliced(tiny_model, ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(tiny_model)


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


def test_a_batchtopk_in_training_mode_is_not_put_into_runs(tiny_model, tokens):
    """There the rows of a batch would change each other."""
    made = a_dictionary(tiny_model, kind="batchtopk").train()
    for ask in (
        lambda: sae.splice(made),
        lambda: sae.edit_feature(made, 0),
        lambda: sae.evaluate(tiny_model, made, tokens),
        lambda: sae.find_contexts(tiny_model, made, tokens),
        lambda: sae.feature_effects(tiny_model, made, tokens),
    ):
        with pytest.raises(ValueError, match="the dictionary is in training mode, in which rows change each other's latents"):
            ask()
    assert made.training
    sae.evaluate(tiny_model, made.eval(), tokens)
    other = a_dictionary(tiny_model).train()
    sae.evaluate(tiny_model, other, tokens)
    assert other.training
