"""Dictionaries are trained: known features are found, interruptions change nothing, curves say what was dead."""

import dataclasses
import json
import signal
from itertools import islice

import pytest
import torch

from cutaway import sae
from interp.small_dictionaries import KINDS, a_dictionary, small_config, small_rows, some_rows

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


# --- bad input


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
