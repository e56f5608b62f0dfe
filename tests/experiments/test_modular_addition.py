"""Sums against their definition, gradients that only turn, looking back along a training, the clock's measures on made-up networks."""

import math

import pytest
import torch

from cutaway import Transformer, experiments
from cutaway.experiments import grokking, modular_clock
from cutaway.experiments.frame import Trial
from cutaway.experiments.modular_addition import (
    Sums,
    SumsConfig,
    first_known,
    number_embedding,
    sum_of_squares,
    summing_model,
    turn_gradients,
)

TINY = SumsConfig(prime=7, train_fraction=0.5, d_model=8, n_heads=2, d_mlp=12)


def tiny() -> tuple[Sums, Transformer]:
    return Sums.drawn(TINY, Trial(seed=0)), summing_model(TINY, Trial(seed=0)).model


def test_sums_are_all_pairs_and_no_test_sum_is_learnt_from() -> None:
    sums, _ = tiny()
    assert sums.tokens.tolist() == [[a, b, 7] for a in range(7) for b in range(7)]
    assert sums.answers.tolist() == [(a + b) % 7 for a in range(7) for b in range(7)]
    assert len(sums.train) == 24  # half of 49, rounded
    assert sorted([*sums.train.tolist(), *sums.test.tolist()]) == list(range(49))
    assert torch.equal(Sums.drawn(TINY, Trial(seed=0)).train, sums.train)
    assert not torch.equal(Sums.drawn(TINY, Trial(seed=1)).train, sums.train)


def test_test_sums_are_told_apart_by_their_mirror() -> None:
    sums, model = tiny()
    train = {tuple(pair) for pair in sums.tokens[sums.train, :2].tolist()}
    pairs = {name: sums.tokens[getattr(sums, name), :2].tolist() for name in ("with_mirror", "without_mirror", "test")}
    assert all((b, a) in train for a, b in pairs["with_mirror"])
    assert not any((b, a) in train or (a, b) in train for a, b in pairs["without_mirror"])
    assert sorted(pairs["with_mirror"] + pairs["without_mirror"]) == pairs["test"]
    assert pairs["with_mirror"]
    assert sum_of_squares(model) == pytest.approx(
        sum(each.detach().flatten().dot(each.detach().flatten()).item() for each in model.parameters())
    )


def test_logits_are_those_after_the_sign() -> None:
    sums, model = tiny()
    with torch.no_grad():
        torch.testing.assert_close(sums.logits(model), model(sums.tokens)[:, -1], rtol=1e-5, atol=1e-5)  # sums in another order
        torch.testing.assert_close(sums.logits(model, sums.test), sums.logits(model)[sums.test], rtol=1e-5, atol=1e-5)


def test_accuracy_and_loss_of_made_up_answers() -> None:
    sums, _ = tiny()
    logits = torch.nn.functional.one_hot((sums.answers + 2) % 7, 7).double() * 50
    assert sums.accuracy(logits) == 0
    assert sums.accuracy(logits, moved=2) == 1
    logits[sums.test] = torch.nn.functional.one_hot(sums.answers[sums.test], 7).double() * 50
    assert (sums.accuracy(logits, sums.test), sums.accuracy(logits, sums.train)) == (1, 0)
    assert sums.loss(logits, sums.train) == pytest.approx(50)
    assert sums.loss(torch.zeros(49, 7), sums.test) == pytest.approx(1.9459101)  # log 7


def test_model_reads_sums_as_words() -> None:
    lm = summing_model(TINY, Trial(seed=0))
    assert lm.tokens("3 5 =").tolist() == [[3, 5, 7]]
    assert lm.config.d_vocab_out == 7
    assert lm.generate("3 5 =", max_new_tokens=1).split()[-1] in map(str, range(7))


def test_turned_gradients_lie_across_the_weights_and_keep_their_length() -> None:
    sums, model = tiny()
    torch.nn.functional.cross_entropy(sums.logits(model), sums.answers).backward()
    before = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    turn_gradients(model)
    for name, weight in model.named_parameters():
        old, new, flat = before[name].flatten(), weight.grad.flatten(), weight.detach().flatten()
        if not flat.any():
            assert torch.equal(old, new)  # biases begin at zero
            continue
        scale = float(flat.norm() * old.norm())
        assert float(flat @ new) == pytest.approx(0, abs=1e-5 * scale)  # float32
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-4)
        along = float(flat @ old) / float(flat @ flat) * flat
        torch.testing.assert_close(torch.nn.functional.normalize(new, dim=0), torch.nn.functional.normalize(old - along, dim=0))


def curve(*losses: float) -> torch.Tensor:
    return torch.stack([torch.arange(len(losses)).double() * 10, torch.tensor(losses, dtype=torch.float64)])


def test_when_losses_rise_and_fall() -> None:
    assert grokking._stays_below(curve(3, 1, 3, 2, 1, 0), 2) == 30
    assert math.isnan(grokking._stays_below(curve(3, 1, 3), 2))
    assert grokking._stays_below(curve(1, 1), 2) == 0
    assert grokking._rises_above(curve(5, 1, 3, 4, 5), 3.5, start=10) == 30
    assert math.isnan(grokking._rises_above(curve(5, 1, 1), 3.5, start=10))
    assert math.isnan(grokking._rises_above(curve(5, 5), 3.5, start=math.nan))
    assert grokking._at(curve(5, 1, 3), 19) == 1
    assert math.isnan(grokking._at(curve(5, 1, 3), -1))
    assert math.isnan(grokking._at(curve(5, 1, 3), math.nan))
    assert first_known(curve(0.2, 0.99, 1)) == 10
    assert first_known(curve(0.2, 0.98)) is None


def test_restricted_and_excluded_losses_of_a_network_that_is_one_wave(monkeypatch: pytest.MonkeyPatch) -> None:
    """With logits 9 cos(2 w (a + b - c)) all is restricted to frequency 2, and without it nothing is left but guessing."""
    sums, model = tiny()
    answers = torch.arange(7)
    made = 9 * (2 * torch.pi * 2 / 7 * ((sums.tokens[:, :1] + sums.tokens[:, 1:2] - answers) % 7).double()).cos()
    monkeypatch.setattr(Sums, "logits", lambda *_: made)
    curves = grokking.Curves(kept={0: {name: weight.detach() for name, weight in model.named_parameters()}})
    own, other = (grokking._looks(curves, model, sums, [k]) for k in (2, 3))
    guessing = 1.9459101  # log 7
    assert own["restricted loss"][1].item() == pytest.approx(own["test loss"][1].item())
    assert own["excluded loss"][1].item() == pytest.approx(guessing)
    assert other["restricted loss"][1].item() == pytest.approx(guessing)
    assert other["excluded loss"][1].item() == pytest.approx(own["train loss"][1].item())


def reading() -> modular_clock._Reading:
    sums, model = tiny()
    return modular_clock._Reading.of(model, sums, torch.Generator().manual_seed(0))


def test_key_frequencies_and_others_do_not_meet() -> None:
    found = on_clock(2)
    assert list(found.keys) == [2]
    assert len(found.others) == 1
    assert found.others[0] in (1, 3)
    assert found.circles() == pytest.approx(1, abs=1e-6)  # float32


def test_edits_of_the_embedding_are_edits_of_the_weights() -> None:
    found = reading()
    W = number_embedding(found.model)
    other = W.roll(2, 0)
    edited = found.with_numbers(other, other)
    with torch.no_grad():
        found.model.embed.W_E[:-1] = other.float()
        torch.testing.assert_close(edited, found.sums.logits(found.model), rtol=1e-5, atol=1e-5)  # sums in another order


def on_clock(frequency: int) -> modular_clock._Reading:
    """Return a network, not trained, whose numbers go round on one even circle."""
    sums, model = tiny()
    turn = 2 * torch.pi * frequency * torch.arange(7) / 7
    with torch.no_grad():
        model.embed.W_E[:7] = 0
        model.embed.W_E[:7, 0], model.embed.W_E[:7, 1] = turn.cos(), turn.sin()
    return modular_clock._Reading.of(model, sums, torch.Generator().manual_seed(0))


def test_turning_the_only_clock_is_another_first_number() -> None:
    """With its one clock turned the model sees a + n, whatever it answers then; a third of a step lies between."""
    found = on_clock(2)
    sums, planes = found.sums, found.planes()
    with torch.no_grad():
        logits = sums.logits(found.model)
    expected = [
        sums.accuracy(logits[((sums.tokens[:, 0] + n) % 7) * 7 + sums.tokens[:, 1]], moved=n) for n in range(1, 7)
    ]  # fmt: skip
    assert found.answers_turned(planes) == pytest.approx(sum(expected) / 6)
    torch.testing.assert_close(found.turned(planes, 7), logits, rtol=1e-4, atol=1e-4)  # all the way round
    between = torch.tensor([2 * torch.pi * 2 / 7 * (a + 1 / 3) for a in range(7)])
    W = number_embedding(found.model)
    moved = torch.zeros_like(W)
    moved[:, 0], moved[:, 1] = between.cos(), between.sin()
    torch.testing.assert_close(found.turned(planes, 1 / 3), found.with_numbers(moved, W), rtol=1e-4, atol=1e-4)


def test_logits_that_turn_with_the_clock_are_its_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_clock(2)
    a, b, _ = found.sums.tokens.T
    distance = (a + b)[:, None] - torch.arange(7)

    own, other = torch.zeros(1, 2, 8), torch.ones(1, 2, 8)

    def following(_: object, planes: torch.Tensor, n_steps: float) -> torch.Tensor:
        turns = n_steps if planes is own else 0
        return (2 * torch.pi * 2 / 7 * (distance + turns)).cos()

    monkeypatch.setattr(modular_clock._Reading, "turned", following)
    assert found.cosines_turned(own) == pytest.approx(1)
    # of a cosine that stays, cos^2 of the turn is along the one that moved: a half in the mean
    assert found.cosines_turned(other) == pytest.approx(0.5)


def test_random_planes_lie_in_the_clocks_space() -> None:
    found = reading()
    planes, random = found.planes(), found.random_planes(torch.Generator().manual_seed(0))
    assert random.shape == planes.shape
    flat = random.flatten(0, 1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat), dtype=flat.dtype))
    assert torch.linalg.matrix_rank(torch.cat([flat, planes.flatten(0, 1)])) == len(flat)


def test_best_cosines_are_those_of_the_logits_own_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_clock(2)
    a, b, _ = found.sums.tokens.T
    distance = (a + b)[:, None] - torch.arange(7)
    made = 3 * (2 * torch.pi / 7 * distance).cos() + (2 * torch.pi * 2 / 7 * distance).cos()
    monkeypatch.setattr(Sums, "logits", lambda *_: made)
    assert found.cosines(found.keys) == pytest.approx(1 / 10)
    assert found.best_cosines() == pytest.approx(9 / 10)


def test_gradient_symmetry_is_one_where_numbers_are_added_first() -> None:
    """Constant attention and no MLP: both numbers act through their sum alone."""
    found = reading()
    attn = found.model.blocks[0].attn
    with torch.no_grad():
        attn.W_Q.weight.zero_()
        assert found.gradient_symmetry(torch.Generator().manual_seed(0)) == pytest.approx(1, abs=1e-5)
        attn.W_Q.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(3)
    assert found.gradient_symmetry(torch.Generator().manual_seed(0)) < 0.99


def test_distance_irrelevance_of_made_up_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reading()
    a, b, _ = found.sums.tokens.T
    for value, expected in (((a - b) % 7, 0.0), ((a + b) % 7, 1.0)):
        logits = torch.zeros(49, 7).scatter(1, found.sums.answers[:, None], value[:, None].float())
        monkeypatch.setattr(Sums, "logits", lambda *_, made=logits: made)
        # every difference meets every sum once, so that within a difference all sums' deviation is that of all, less what 48/49 does
        assert found.distance_irrelevance() == pytest.approx(expected, abs=0.08)


@pytest.mark.slow  # two trainings
def test_reduced_grokking_passes() -> None:
    _passes("grokking", n_figures=2)


def test_reduced_grokking_without_decay_passes() -> None:
    _passes("grokking-without-decay", n_figures=1)


@pytest.mark.slow
def test_reduced_clock_passes() -> None:
    _passes("modular-clock", n_figures=6)


def _passes(name: str, *, n_figures: int) -> None:
    result = experiments.run(name, experiments.experiment(name).scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == n_figures
