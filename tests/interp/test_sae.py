"""Dictionaries and how they are trained: gradients by hand, features that are known, interruptions that change nothing."""

import dataclasses
import json
import signal
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from cutaway import run_with_cache, sae, store
from cutaway.interp.sae.revival import auxiliary_loss, resample
from cutaway.interp.store import collect
from cutaway.interp.store.shards import RowRange
from interp.models import small_model

KINDS = {"relu": {}, "topk": {"k": 3}, "batchtopk": {"k": 3}, "jumprelu": {}}

# float64: the same sums in another order
EXACT = 1e-12

# Of a central difference with steps of 1e-6 in float64: its own error is of the order of 1e-10.
BY_DIFFERENCE = 1e-7


def a_dictionary(kind="topk", *, d_in=6, d_sae=10, seed=0, **fields):
    """A dictionary in float64 with weights that are all away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    config = sae.DictionaryConfig(kind=kind, d_in=d_in, d_sae=d_sae, **{**KINDS[kind], **fields})
    made = sae.make_dictionary(config, generator=generator).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if kind in ("batchtopk", "jumprelu"):
            made.threshold.copy_(0.1 + 0.2 * torch.rand(d_sae, generator=generator))
    return made


def some_rows(n=32, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what is computed


@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_what_they_stand_for(kind):
    made, x = a_dictionary(kind).eval(), some_rows()
    pre = (x - made.b_dec) @ made.W_enc + made.b_enc
    expected = torch.zeros_like(pre)
    for i, row in enumerate(pre):
        for j, value in enumerate(row):
            is_kept = {
                "relu": value > 0,
                "topk": value > 0 and value >= row.sort(descending=True).values[2],
                "batchtopk": kind == "batchtopk" and value > made.threshold[j],
                "jumprelu": kind == "jumprelu" and value > made.threshold[j],
            }[kind]
            expected[i, j] = value if is_kept else 0
    torch.testing.assert_close(made.encode(x), expected, atol=EXACT, rtol=0)
    torch.testing.assert_close(made(x), expected @ made.W_dec + made.b_dec, atol=EXACT, rtol=0)
    torch.testing.assert_close(made.encode(x[0]), made.encode(x)[0], atol=EXACT, rtol=0)


def test_batchtopk_keeps_k_a_row_in_the_mean_while_it_is_trained():
    made, x = a_dictionary("batchtopk").train(), some_rows()
    latents, pre = made.encode(x), made.pre_activations(x)
    assert int((latents > 0).sum()) == 3 * len(x)
    assert latents[latents > 0].min() >= pre[latents == 0].max()


def test_the_threshold_of_batchtopk_follows_the_smallest_latent_kept():
    made = sae.make_dictionary(sae.DictionaryConfig(kind="batchtopk", d_in=6, d_sae=10, k=3))
    made.follow_threshold(torch.tensor([[0.0] * 8 + [0.5, 2.0]]))
    assert made.threshold.tolist() == [0.5] * 10
    made.follow_threshold(torch.tensor([[0.0] * 8 + [1.5, 2.0]]), rate=0.1)
    torch.testing.assert_close(made.threshold, torch.full((10,), 0.6))


def test_a_skip_goes_past_the_latents():
    made, x = a_dictionary("topk", name="blocks.0.ln2.normalized", target="blocks.0.mlp_out", d_out=4, has_skip=True), some_rows()
    latents = (x @ made.W_enc + made.b_enc).relu()
    latents = torch.where(latents >= latents.sort(descending=True).values[:, 2:3], latents, 0)
    torch.testing.assert_close(made(x), latents @ made.W_dec + made.b_dec + x @ made.W_skip.T, atol=EXACT, rtol=0)


def test_decoder_rows_begin_at_length_one():
    made = sae.make_dictionary(sae.DictionaryConfig(d_in=6, d_sae=10, k=3))
    torch.testing.assert_close(made.W_dec.norm(dim=1), torch.ones(10))
    assert torch.equal(made.W_enc, made.W_dec.T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["autoencoder", "skip transcoder"])
def test_scales_are_folded_into_the_weights(kind, shape):
    fields = {"name": "a", "target": "b", "d_out": 4, "has_skip": True} if shape == "skip transcoder" else {}
    made, x = a_dictionary(kind, **fields).eval(), some_rows()
    read = torch.full((6,), 0.3, dtype=torch.float64)
    predicted = torch.full((made.config.d_out,), 7.0 if fields else 0.3, dtype=torch.float64)
    before, latents, norms = made(x * read) / predicted, made.encode(x * read), made.W_dec.norm(dim=1)
    made.fold_scales(read, predicted)
    torch.testing.assert_close(made(x), before, atol=EXACT, rtol=1e-12)
    torch.testing.assert_close(made.encode(x), latents / predicted[0], atol=EXACT, rtol=1e-12)
    torch.testing.assert_close(made.W_dec.norm(dim=1), norms)


def test_scales_of_a_crosscoder_are_folded_into_the_weights():
    made, x = a_dictionary("topk", n_models=2).eval(), some_rows()
    scales = torch.tensor([0.3, 0.3, 0.3, 5.0, 5.0, 5.0], dtype=torch.float64)
    before, latents = made(x * scales) / scales, made.encode(x * scales)
    made.fold_scales(scales, scales)
    torch.testing.assert_close(made(x), before, atol=EXACT, rtol=1e-12)
    torch.testing.assert_close(made.encode(x), latents, atol=EXACT, rtol=1e-12)


# --- gradients


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk"])
def test_gradients_are_those_of_finite_differences(kind):
    made, x, weights = a_dictionary(kind).train(), some_rows(8), some_rows(8, seed=5)
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]

    def loss():
        pre = made.pre_activations(x)
        latents = made.activate(pre)
        return (made.decode(latents) * weights).sum() + made.penalty(pre, latents)

    found = dict(zip(names, torch.autograd.grad(loss(), [getattr(made, name) for name in names]), strict=True))
    step = 1e-6
    for name in names:
        weight = getattr(made, name).data.view(-1)
        for place in range(0, len(weight), 7):
            value = weight[place].item()
            weight[place] = value + step
            above = loss().item()
            weight[place] = value - step
            below = loss().item()
            weight[place] = value
            assert abs((above - below) / (2 * step) - found[name].view(-1)[place].item()) < BY_DIFFERENCE, (name, place)


def test_a_step_of_topk_is_the_same_as_one_that_multiplies_everything():
    made, x = a_dictionary("topk", name="a", target="b", d_out=4, has_skip=True), some_rows(40)
    weights = list(made.parameters())
    found, plain = made.explain(x), sae.Dictionary.explain(made, x)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=EXACT, rtol=0)
    gradients = [torch.autograd.grad(each[2].square().sum(), weights) for each in (found, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)  # sums of 40 rows in another order


def test_gradients_of_jumprelu_are_the_closed_forms_of_its_paper():
    made, x = a_dictionary("jumprelu", bandwidth=0.4), some_rows(50)
    pre = made.pre_activations(x).detach().requires_grad_()
    towards = some_rows(50, 10, seed=3)
    latents = made.activate(pre)
    d_pre, d_threshold = torch.autograd.grad((latents * towards).sum(), [pre, made.threshold])
    expected = torch.zeros(10, dtype=torch.float64)
    l0_expected = torch.zeros(10, dtype=torch.float64)
    for i in range(50):
        for j in range(10):
            theta = made.threshold[j].item()
            if abs(pre[i, j].item() - theta) < 0.2:
                expected[j] -= theta / 0.4 * towards[i, j]
                l0_expected[j] -= 1 / 0.4 / 50
    torch.testing.assert_close(d_threshold, expected, atol=EXACT, rtol=1e-12)
    torch.testing.assert_close(d_pre, towards * (pre > made.threshold), atol=0, rtol=0)
    penalty = made.penalty(pre, latents)
    assert penalty.item() == pytest.approx((latents > 0).sum().item() / 50)
    torch.testing.assert_close(torch.autograd.grad(penalty, made.threshold)[0], l0_expected, atol=EXACT, rtol=1e-12)


def test_the_thresholds_gradient_is_that_of_the_expected_loss():
    """With a wide sample the estimate comes to the derivative of the expected L0: less the density at the threshold."""
    made = a_dictionary("jumprelu", d_sae=1, bandwidth=0.2)
    pre = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = torch.autograd.grad(made.penalty(pre, pre), made.threshold)[0].item()
    density = torch.distributions.Normal(0.0, 1.0).log_prob(made.threshold.detach().double()).exp().item()
    # 32,000 rows fall into the window: a standard error of 0.6 % of the density, and a bias of (0.2^2 / 24)
    assert gradient == pytest.approx(-density, rel=0.03)


# --- features that are known


def recover(kind, **settings):
    known = sae.SyntheticFeatures.random(256, 64, probability=0.0117, seed=1)
    fields = {"kind": kind, "d_in": 64, "d_sae": 256, **({"k": 3} if kind in ("topk", "batchtopk") else {})}
    config = sae.SAEConfig(
        dictionary=sae.DictionaryConfig(**fields), batch_size=256, learning_rate=1e-2, dead_after=10_000, log_every=100, **settings
    )
    found, curve = sae.train(config, known)
    return known, found, curve


@pytest.mark.parametrize(("kind", "settings"), [("topk", {"n_steps": 700}), ("jumprelu", {"n_steps": 1400, "sparsity": 0.02})])
def test_known_features_are_recovered(kind, settings):
    known, found, curve = recover(kind, **settings)
    cosines = sae.best_cosines(known.directions, found.W_dec)
    by_chance = sae.best_cosines(known.directions, sae.random_dictionary(256, 64))
    assert cosines.mean() >= 0.95, f"{cosines.mean():.3f} beside {by_chance.mean():.3f} of a random dictionary"
    assert by_chance.mean() <= 0.4
    assert curve.last.fvu < 0.25 < curve.points[0].fvu
    assert 1 < curve.last.l0 < 6  # three features are there in the mean
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(256))


def test_best_cosines_by_hand():
    eye = torch.eye(3)
    found = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 3.0]])
    torch.testing.assert_close(sae.best_cosines(eye, found), torch.tensor([1.0, 0.5**0.5, 0.5**0.5]))


# --- training


def small_config(kind="topk", *, n_steps=20, sparsity=0.0, **fields):
    shape = sae.DictionaryConfig(**{"kind": kind, "d_in": 8, "d_sae": 24, **KINDS[kind], **fields})
    sparsity = sparsity or (0.05 if shape.k is None else 0.0)
    return sae.SAEConfig(
        dictionary=shape, n_steps=n_steps, batch_size=16, sparsity=sparsity, dead_after=64, log_every=5, learning_rate=3e-3
    )


def small_rows(n=100, d=8):
    return 4 * torch.randn(n, d, generator=torch.Generator().manual_seed(2)) + 1


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on_to_the_same_result(kind, tmp_path):
    config, rows = small_config(kind), small_rows()
    whole, curve = sae.train(config, rows)

    def stop(n_done, n_all, point):
        if n_done == 13:
            raise Interrupted

    with pytest.raises(Interrupted):
        sae.train(config, rows, checkpoints=tmp_path, checkpoint_every=5, progress=stop)
    assert [each.name for each in tmp_path.iterdir()] == ["step-000010"]
    resumed, resumed_curve = sae.train(config, rows, checkpoints=tmp_path, checkpoint_every=5)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert resumed_curve.points == curve.points


def test_ctrl_c_saves_first(tmp_path):
    config, rows = small_config(), small_rows()
    whole, curve = sae.train(config, rows)

    def ask(n_done, n_all, point):
        if n_done == 13:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"saved after step 13 in .*; the same command goes on from there"):
        sae.train(config, rows, checkpoints=tmp_path, progress=ask)
    assert [each.name for each in tmp_path.iterdir()] == ["step-000013"]
    resumed, resumed_curve = sae.train(config, rows, checkpoints=tmp_path)
    assert torch.equal(whole.W_dec, resumed.W_dec)
    assert resumed_curve.points == curve.points


def test_checkpoints_of_another_training_are_refused(tmp_path):
    sae.train(small_config(), small_rows(), checkpoints=tmp_path, checkpoint_every=5)
    with pytest.raises(ValueError, match="a training with another dictionary: give a folder of its own"):
        sae.train(small_config(k=2), small_rows(), checkpoints=tmp_path)


def test_checkpoints_of_other_activations_are_refused(tmp_path):
    config, rows = small_config(n_steps=20), small_rows()

    def stop(n_done, n_all, point):
        if n_done == 13:
            raise Interrupted

    with pytest.raises(Interrupted):
        sae.train(config, rows, checkpoints=tmp_path, checkpoint_every=5, progress=stop)
    for other in (5 * rows + 3, small_rows(120), rows[:90], rows.flip(0)):
        with pytest.raises(ValueError, match="holds a training on other activations than these: give the same"):
            sae.train(config, other, checkpoints=tmp_path)
    nearly = rows + 1e-3 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))  # as computed elsewhere
    _, curve = sae.train(config, nearly, checkpoints=tmp_path)
    again, _ = sae.train(config, rows, checkpoints=tmp_path)
    assert list(curve.scales) == list(sae.train(config, rows)[1].scales), "the scales are those that the weights were trained in"
    assert torch.isfinite(again.W_dec).all()


@pytest.mark.parametrize("what", ["autoencoder", "transcoder"])
def test_batchtopk_ends_with_a_threshold_that_keeps_k(what):
    """Also after a training too short for a running mean to arrive; the last point says what is measured with it."""
    source = sae.SyntheticFeatures.random(64, 16, probability=0.05, seed=0, n_rows=2**14)
    fields = {"name": "blocks.0.ln2.normalized", "target": "blocks.0.mlp_out"} if what == "transcoder" else {}
    shape = sae.DictionaryConfig(kind="batchtopk", d_in=8 if fields else 16, d_sae=64, k=4, **fields)
    config = sae.SAEConfig(dictionary=shape, n_steps=100, batch_size=256)
    made, curve = sae.train(config, source)
    rows = source.draw(20_000, torch.Generator().manual_seed(5))
    found = sae.measure_reconstruction(made, [rows])
    assert found.l0 == pytest.approx(4, abs=0.1)  # 16,384 rows gave the threshold: 4 to about 0.02
    assert len(made.threshold.unique()) == 1
    assert curve.last == curve.points[-1]
    assert curve.last.step == 100
    assert curve.last.l0 == pytest.approx(4, abs=1e-3)
    assert curve.last.fvu == pytest.approx(found.fvu, rel=0.05)
    assert "With the threshold that it ends with" in curve.summary()


def test_a_threshold_is_that_of_the_rows_it_is_set_on():
    made, x = a_dictionary("batchtopk").eval(), some_rows(50)
    made.calibrate_threshold(x)
    assert int((made.encode(x) > 0).sum()) == 3 * 50
    few = a_dictionary("batchtopk", d_sae=3).eval()
    few.calibrate_threshold(x)
    assert few.threshold.tolist() == [0.0] * 3  # there are not three a row above zero: all of them are kept
    torch.testing.assert_close(few.encode(x), few.pre_activations(x).relu(), atol=0, rtol=0)


def test_training_follows_from_the_seed_alone():
    one, _ = sae.train(small_config(), small_rows())
    torch.manual_seed(99)
    other, _ = sae.train(small_config(), small_rows())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_dictionary_is_for_activations_as_they_come():
    """Trained on activations of any size it predicts them at that size, and equally well."""
    rows = small_rows(2000)
    found = {}
    for factor in (1.0, 1000.0):
        made, _ = sae.train(small_config(n_steps=200), factor * rows)
        found[factor] = sae.measure_reconstruction(made, [factor * rows]).fvu
    assert found[1000.0] == pytest.approx(found[1.0], rel=1e-3)  # float32 sums that differ in rounding, over 200 steps
    assert found[1.0] < 0.6


def test_rows_that_are_far_too_long_are_left_out_and_counted():
    rows = small_rows(100)
    rows[::10] *= 1000
    _, curve = sae.train(small_config(n_steps=7), rows)
    assert curve.n_left_out == 10
    assert "10 rows were left out" in curve.summary()


def test_dead_latents_are_pulled_towards_the_error():
    made, x = a_dictionary("topk"), some_rows()
    is_dead = torch.zeros(10, dtype=torch.bool)
    pre, error = made.pre_activations(x), some_rows(seed=8)
    assert auxiliary_loss(made, pre, error, is_dead) == 0
    is_dead[[2, 5, 7, 8]] = True
    latents = torch.zeros_like(pre)
    for i, row in enumerate(pre):  # half of 6 coordinates: three of the four
        for j in sorted([2, 5, 7, 8], key=lambda j: -row[j])[:3]:
            latents[i, j] = row[j].relu()
    expected = (error - latents @ made.W_dec).square().mean()
    torch.testing.assert_close(auxiliary_loss(made, pre, error, is_dead), expected)


def test_dead_latents_begin_anew_as_rows_that_were_badly_predicted():
    made, x = a_dictionary("relu").float(), some_rows(4).float()
    optimizer = torch.optim.Adam(made.parameters())
    made(x).sum().backward()
    optimizer.step()
    error = torch.zeros(4, 6)
    error[2] = torch.arange(6) + 1.0  # the one row that is badly predicted is drawn for certain
    is_dead = torch.zeros(10, dtype=torch.bool)
    is_dead[[1, 4]] = True
    kept = made.W_enc.detach().clone()
    resample(made, optimizer, is_dead, x, error, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.W_dec[[1, 4]], (error[2] / error[2].norm()).expand(2, -1))
    read = x[2] - made.b_dec
    torch.testing.assert_close(made.W_enc[:, 4], 0.2 * kept[:, ~is_dead].norm(dim=0).mean() * read / read.norm())
    assert torch.equal(made.W_enc[:, ~is_dead], kept[:, ~is_dead])
    assert not optimizer.state[made.W_dec]["exp_avg"][[1, 4]].any()
    assert optimizer.state[made.W_dec]["exp_avg"][0].any()


def test_a_batch_of_one_row_has_no_share_of_variance():
    """The last batch of an epoch may be one row, about whose mean nothing varies: it is no point of the curve."""
    shape = sae.DictionaryConfig(kind="topk", d_in=6, d_sae=8, k=2)
    config = sae.SAEConfig(dictionary=shape, n_steps=6, batch_size=8, log_every=1)
    _, curve = sae.train(config, some_rows(17).float())
    assert [point.step for point in curve.points] == [0, 1, 3, 4], "of 8, 8 and 1 rows"
    assert json.loads(curve.to_json())["last"]["fvu"] == curve.points[-1].fvu
    with pytest.raises(ValueError, match="one row over and over"):
        sae.train(config, some_rows(1).float())


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


def test_a_transcoder_learns_another_activation():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 8, generator=generator)
    y = torch.nn.functional.relu(x @ torch.randn(8, 6, generator=generator)) @ torch.randn(6, 5, generator=generator)
    found = {}
    for has_skip in (False, True):
        config = small_config("topk", n_steps=300, name="in", target="out", d_out=5, has_skip=has_skip)
        made, _ = sae.train(config, torch.cat([x, y], dim=1))
        found[has_skip] = sae.measure_reconstruction(made, [torch.cat([x, y], dim=1)]).fvu
    assert found[True] < found[False] < 0.6


# --- sources


def test_rows_in_memory_come_once_an_epoch():
    source = sae.TensorActivations(torch.arange(10.0)[:, None])
    first, *_ = batches = list(source.batches(4, seed=3, n_epochs=2))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert torch.cat(batches[:3])[:, 0].sort().values.tolist() == list(range(10))
    assert torch.equal(first, next(source.batches(4, seed=3)))
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))


def test_a_models_rows_come_once_an_epoch_and_are_those_of_its_runs(tiny_model, make_tokens):
    tokens = make_tokens(batch=30, n_pos=6)
    names = ["blocks.0.attn.z", "blocks.1.mlp_out"]
    source = sae.ModelActivations(tiny_model, tokens, names, first=2, n_buffered=32)
    rows = torch.cat(list(source.batches(8, seed=0)))
    assert rows.shape == (30 * 4, source.d)
    _, cache = run_with_cache(tiny_model, tokens, names)
    expected = torch.cat([cache[names[0]].flatten(2), cache[names[1]]], dim=-1)[:, 2:].flatten(0, 1)
    torch.testing.assert_close(rows[rows[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=EXACT, rtol=0)
    assert not torch.equal(rows, torch.cat(list(source.batches(8, seed=1))))


def side_by_side(kinds, tmp_path):
    """Return two activations of the same rows beside each other, which tell their row in their first coordinate."""
    model = small_model(n_layers=1, d_vocab=200).float()
    tokens = torch.randint(200, (150, 16), generator=torch.Generator().manual_seed(0))
    name, sources = "embed", []
    for number, kind in enumerate(kinds):
        if kind == "runs":
            sources.append(sae.ModelActivations(model, tokens, name, first=0))
            continue
        kept = store.collect(model, tokens, name, tmp_path / str(number), dtype=getattr(torch, kind.removesuffix(" in memory")))
        sources.append(sae.TensorActivations(kept[name][:]) if kind.endswith("in memory") else kept[name])
    return sae.SideBySide(sources)


@pytest.mark.parametrize(
    "kinds",
    [
        ("float32", "float32"),
        ("float32", "bfloat16"),
        ("float32", "float32 in memory"),
        ("bfloat16 in memory", "float32 in memory"),
        ("runs", "runs"),
    ],
)
def test_sources_side_by_side_stay_aligned(kinds, tmp_path):
    """Whatever each is stored in: every row beside its own, once an epoch, in an order that the seed gives."""
    source = side_by_side(kinds, tmp_path)
    batches = list(source.batches(500, seed=3, n_epochs=2))
    assert [len(batch) for batch in batches] == [500, 500, 500, 500, 400] * 2
    first, second = torch.cat(batches).chunk(2, dim=1)
    torch.testing.assert_close(first, second, rtol=2**-7, atol=0)  # as far apart as bfloat16 rounds
    order = torch.cat(batches)[:, 0]
    assert torch.equal(order[:2400].sort().values, order[2400:].sort().values)
    assert not torch.equal(order[:2400], order[2400:])
    assert torch.equal(next(source.batches(500, seed=3)), batches[0])


def test_sources_of_different_rows_are_not_put_side_by_side(tmp_path):
    rows = torch.arange(10.0)[:, None]
    with pytest.raises(ValueError, match="do not have the same rows"):
        sae.SideBySide([sae.TensorActivations(rows), sae.TensorActivations(rows[:7])])
    model, tokens = small_model(), torch.zeros(4, 9, dtype=torch.long)
    runs = sae.ModelActivations(model, tokens, "embed")
    for other in (
        sae.ModelActivations(model, tokens, "embed", n_buffered=512),
        sae.ModelActivations(model, tokens, "embed", first=2),
        sae.ModelActivations(model, tokens + 1, "embed"),
        sae.TensorActivations.of(runs),
    ):
        with pytest.raises(ValueError, match="of ModelActivations come in an order of their own"):
            sae.SideBySide([runs, other])
    with pytest.raises(ValueError, match="rows of SyntheticFeatures come in an order of their own"):
        sae.SideBySide([sae.TensorActivations(rows), sae.SyntheticFeatures.random(4, 2, probability=0.1, seed=0)])


# --- measures


def test_reconstruction_by_hand():
    made, rows = a_dictionary("topk").eval(), some_rows(200)
    found = sae.measure_reconstruction(made, rows.split(64))
    residual = (rows - made(rows)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert found.fvu == pytest.approx(residual.item(), rel=1e-12)
    assert found.l0 == pytest.approx((made.encode(rows) > 0).sum(1).double().mean().item())
    assert found.dead == pytest.approx((made.encode(rows) == 0).all(0).double().mean().item())


def test_measuring_leaves_a_dictionary_in_its_mode():
    made, rows = a_dictionary("topk").train(), some_rows(50)
    sae.measure_reconstruction(made, [rows])
    assert made.training
    with pytest.raises(ValueError, match=r"in training mode, in which rows change each other's latents: call its eval\(\) first"):
        sae.measure_reconstruction(a_dictionary("batchtopk").train(), [rows])


def test_principal_components_as_svd_has_them():
    rows = some_rows(300) @ torch.diag(torch.arange(1, 7).double())
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / 300
    U, sizes, V = torch.linalg.svd(centred, full_matrices=False)
    left = [(centred - U[:, :rank] * sizes[:rank] @ V[:rank]).square().sum() / centred.square().sum() for rank in range(7)]
    for rank in range(7):
        assert sae.pca_fvu(covariance, rank) == pytest.approx(left[rank].item(), abs=1e-12)
    assert sae.pca_fvu(covariance, 2.25) == pytest.approx((0.75 * left[2] + 0.25 * left[3]).item(), abs=1e-12)
    assert sae.pca_fvu(covariance, 40) == pytest.approx(0, abs=1e-12)


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


# --- bad input


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "gated", "k": None}, "there is no dictionary of kind 'gated'"),
        ({"kind": "topk", "k": None}, "needs k"),
        ({"kind": "relu", "k": 4}, "has no k: leave it out"),
        ({"k": 25}, "k is 25; expected 1 to 24"),
        ({"d_sae": 0, "k": 1}, "d_sae is 0; expected at least 1"),
        ({"d_out": 5}, "name the target that has another width"),
        ({"n_models": 3}, "a crosscoder of 3 models"),
        ({"has_skip": True}, "it is for a transcoder, so name its target"),
        ({"target": "b", "subtracts_b_dec": True}, "only what predicts its own input"),
    ],
)
def test_shapes_that_do_not_go_together(fields, sentence, without_type_checks):
    with pytest.raises(ValueError, match=sentence):
        sae.DictionaryConfig(**{"kind": "topk", "d_in": 8, "d_sae": 24, "k": 3, **fields})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_steps": 0}, "the number of steps is 0"),
        ({"sparsity": 0.1}, "k says how many latents"),
        ({"warm_up": 1.5}, "expected a share of the steps"),
        ({"max_norm": 0.5}, "more than 1 times the median"),
    ],
)
def test_recipes_that_make_no_sense(changes, sentence):
    shape = sae.DictionaryConfig(d_in=8, d_sae=24, k=3)
    with pytest.raises(ValueError, match=sentence):
        sae.SAEConfig(dictionary=shape, **changes)


def test_a_penalty_is_asked_for_where_it_is_needed():
    with pytest.raises(ValueError, match="needs sparsity"):
        sae.SAEConfig(dictionary=sae.DictionaryConfig(kind="relu", d_in=8, d_sae=24))


def test_rows_that_cannot_be_trained_on():
    with pytest.raises(ValueError, match="have 6 coordinates and the dictionary is for 8"):
        sae.train(small_config(), some_rows().float())
    with pytest.raises(ValueError, match="not all finite"):
        sae.train(small_config(), torch.full((20, 8), torch.nan))
    with pytest.raises(ValueError, match="the source gave no rows"):
        sae.train(small_config(), torch.empty(0, 8))


def test_a_curve_is_shown_and_written(tmp_path):
    _, curve = sae.train(small_config(), small_rows())
    assert "24 latents (topk) of activations, trained 20 steps on 320 rows" in curve.summary()
    assert json.loads(curve.to_json())["last"]["l0"] == pytest.approx(curve.last.l0)
    assert [len(each) for each in curve.table()[1]] == [5] * 5
    assert "<svg" in curve.report(tmp_path / "curve.html").read_text()


def test_a_curve_says_of_which_steps_its_last_numbers_are():
    """A table of points ends with one batch's, which is not their mean."""
    _, curve = sae.train(small_config(), small_rows())
    points = tuple(dataclasses.replace(curve.points[0], step=step, fvu=step / 100) for step in range(30))
    assert "In the mean of the last 3 points, steps 27 to 29, 28.0 % of" in dataclasses.replace(curve, points=points).summary()
    assert "At step 9, 9.0 % of" in dataclasses.replace(curve, points=points[:10]).summary()


def many_latents(n_steps=100, **settings):
    source = sae.SyntheticFeatures.random(64, 16, probability=0.02, seed=0, n_rows=2**13)
    shape = sae.DictionaryConfig(kind="topk", k=1, d_in=16, d_sae=1024)
    return sae.SAEConfig(dictionary=shape, n_steps=n_steps, batch_size=64, **settings), source


def test_what_is_dead_is_not_said_before_it_is_known(tmp_path):
    config, source = many_latents(dead_after=100_000)
    made, curve = sae.train(config, source)
    assert {point.dead for point in curve.points} == {None}
    assert "How many are dead is not known, as that takes 100,000 rows" in curve.summary()
    assert f"{100 * curve.never_fired:.1f} % fired on none" in curve.summary()
    rows = torch.cat(list(islice(source.batches(64, seed=1), 100)))  # those of the first epoch
    never = (made.encode(rows) == 0).all(0).float().mean().item()
    assert curve.never_fired > 0.05
    assert curve.never_fired <= never + 0.05
    assert json.loads(curve.to_json())["last"]["dead"] is None
    assert curve.table()[1][-1][-1] == "not known"
    assert len(curve.figures()) == 1  # latents a row are always k


def test_a_latent_is_dead_after_a_tenth_of_a_short_training():
    config, source = many_latents()
    assert config.dead_after == 640
    assert many_latents(100_000)[0].dead_after == 100_000
    curve = sae.train(config, source)[1]
    assert curve.points[0].dead is None
    assert curve.last.dead > 0
    assert "of them are dead" in curve.summary()
    unrevived = sae.train(dataclasses.replace(config, auxiliary=0.0), source)[1]
    assert curve.points[0] == unrevived.points[0]
    assert curve.last.fvu != unrevived.last.fvu, "what is dead has a loss of its own in it"


def test_synthetic_rows_have_the_features_they_say():
    known = sae.SyntheticFeatures(torch.eye(20), probability=0.25, n_rows=4000)
    rows = torch.cat(list(islice(known.batches(1000, seed=0), 4)))
    assert ((rows > 0).float().mean() - 0.25).abs() < 0.01  # 80,000 draws: a standard error of 0.0015
    assert rows[rows > 0].min() >= 0.5
    assert rows.max() <= 1.5


class _Stored:
    """A stored activation, as far as training knows one: rows with the axes of heads."""

    def __init__(self, rows):
        self.rows = rows

    @property
    def d(self):
        return self.rows[0].numel()

    def batches(self, batch_size, *, seed, n_epochs=1):
        for _ in range(n_epochs):
            yield from self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))].split(batch_size)


def test_whatever_has_batches_is_trained_on():
    rows = small_rows(100)
    _, flat = sae.train(small_config(), _Stored(rows))
    _, of_heads = sae.train(small_config(), _Stored(rows.unflatten(1, (2, 4))))
    assert flat.points == of_heads.points
    named = _Stored(rows)
    named.name = "blocks.3.resid_post"
    assert sae.train(small_config(name="blocks.3.hook_resid_post"), named)[1].points == flat.points
    with pytest.raises(ValueError, match=r"is for 'blocks.2.resid_post' and the activations are 'blocks.3.resid_post'"):
        sae.train(small_config(name="blocks.2.resid_post"), named)
    with pytest.raises(ValueError, match="rows of _Stored come in an order of their own"):
        sae.SideBySide([_Stored(rows), _Stored(rows[:, :4])])


def test_a_dictionary_knows_what_of_a_store_it_did_not_learn_from(tiny_model, tmp_path):
    ids = torch.randint(31, (400,), generator=torch.Generator().manual_seed(0))
    kept = collect(tiny_model, ids, ["blocks.0.resid_post", "blocks.1.resid_post"], tmp_path / "kept", ctx=10)
    learned, _ = kept["blocks.1.resid_post"].split()
    shape = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.1.resid_post")
    config = sae.SAEConfig(dictionary=shape, n_steps=5, batch_size=20)
    made, curve = sae.train(config, learned)
    assert (
        made.config.trained_on
        == kept.training_data
        == sae.TrainingData(source="token ids", n_tokens=400, n_learned=360, sha256=kept.manifest["data"]["sha256"])
    )
    assert "The text is token ids (400 tokens, of which the last 40 were held out)." in curve.summary()
    again = sae.load_dictionary(sae.save_dictionary(made, tmp_path / "made"))
    assert again.config == made.config

    windows = kept.tokens.of_windows(kept.held_out_windows)
    ask = partial(sae.evaluate, tiny_model, tokens=windows)
    said = ask(again, data=kept.training_data).summary()
    assert said.endswith("Measured on the last 40 of the 400 tokens of token ids, which were held out from training.")
    everything, _ = sae.train(config, kept["blocks.1.resid_post"])
    said = ask(everything, data=kept.training_data).summary()
    assert said.endswith("tokens of token ids, of which the dictionary may have learned from 40.")
    unknown, _ = sae.train(config, learned[:])
    assert unknown.config.trained_on is None
    assert ask(unknown, data=kept.training_data).measured_on.endswith("the dictionary does not say what it learned from.")
    other = replace(kept.training_data, sha256="0", source="other")
    assert "whether these tokens were among them is not known" in ask(made, data=other).measured_on
    assert ask(made).measured_on == ""
    across = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.0.resid_post", target="blocks.1.resid_post")
    sources = sae.SideBySide([kept["blocks.0.resid_post"].split()[0], learned])
    both, _ = sae.train(sae.SAEConfig(dictionary=across, n_steps=3, batch_size=20), sources)
    assert both.config.trained_on == kept.training_data


def test_training_never_sees_rows_that_are_held_out(tiny_model, tmp_path, monkeypatch):
    """Every row that goes into a step or a scale is one of the first part."""
    ids = torch.randint(31, (400,), generator=torch.Generator().manual_seed(0))
    kept = collect(tiny_model, ids, "blocks.1.resid_post", tmp_path / "kept", ctx=10)
    learned, held_out = kept["blocks.1.resid_post"].split()
    asked = []
    span = RowRange.span
    monkeypatch.setattr(RowRange, "span", lambda self, *a, **k: asked.append(self.start + a[1]) or span(self, *a, **k))
    shape = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.1.resid_post")
    sae.train(sae.SAEConfig(dictionary=shape, n_steps=60, batch_size=20), learned)
    assert max(asked) == 360 == len(learned)
    assert len(held_out) == 40
