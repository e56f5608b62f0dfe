"""Dictionaries in the run of a model: what leaves it as it is, what takes everything away, one feature changed."""

import dataclasses

import pytest
import torch

import cutaway
from cutaway import edits, metrics, sae
from cutaway.interp.generating import EditedTransformer
from cutaway.interp.sae.activations import as_vectors
from cutaway.interp.sae.evaluation import evaluate
from cutaway.model import KVCache
from interp.spliced_dictionaries import EXACT, NAMES, a_dictionary, a_transcoder, plus_and_minus


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
