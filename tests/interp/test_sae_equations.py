"""What a dictionary computes, its gradients and its measures are those of closed forms, finite differences and sums by hand."""

import json

import pytest
import torch

from cutaway import sae
from cutaway.interp.sae.revival import auxiliary_loss, resample
from interp.small_dictionaries import EXACT, KINDS, a_dictionary, some_rows

# Of a central difference with steps of 1e-6 in float64: its own error is of the order of 1e-10.
BY_DIFFERENCE = 1e-7


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


# --- training


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
