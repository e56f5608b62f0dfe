"""A step against the same step written out: AdamW's equations, and one batch instead of several."""

import math

import pytest
import torch
import torch.nn.functional as F

from cutaway.model import Transformer
from cutaway.ranks import Ranks
from cutaway.runtime import seeded_generator
from cutaway.training.optimizer import make_optimizers
from cutaway.training.step import TrainStep, read_results
from tiny_training import tiny_config

# No attention bias: the gradient of a key's bias is zero but for rounding, which Adam's division would blow up to a whole step.
SHAPE = {"d_vocab": 13, "dropout": 0.0, "attn_bias": False}
BETA1, BETA2, RATES = 0.9, 0.99, (0.01, 0.02, 0.01, 0.005, 0.001)


def model_of(config):
    return Transformer(config.model, generator=seeded_generator(3))


def draw_batches(n_steps, n_accumulate):
    generator = seeded_generator(5)
    draw = lambda: tuple(torch.randint(13, (2, 4, 16), generator=generator))  # noqa: E731
    return [[draw() for _ in range(n_accumulate)] for _ in range(n_steps)]


def written_out(model, steps, *, weight_decay, max_grad_norm):
    """Take the steps by the equations of Loshchilov & Hutter 2019, algorithm 2, on all of a step's rows as one batch."""
    weights = list(model.parameters())
    means, squares = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    losses, norms = [], []
    for t, (batches, rate) in enumerate(zip(steps, RATES, strict=True), start=1):
        inputs, targets = (torch.cat(rows) for rows in zip(*batches, strict=True))
        log_probs = model(inputs).log_softmax(dim=-1)
        loss = -log_probs.gather(-1, targets[..., None]).mean()
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
        scale = min(1.0, max_grad_norm / norm) if max_grad_norm else 1.0
        with torch.no_grad():
            for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
                mean.lerp_(scale * gradient, 1 - BETA1)
                square.lerp_((scale * gradient).square(), 1 - BETA2)
                weight *= 1 - rate * (weight_decay if weight.ndim >= 2 else 0)
                weight -= rate * (mean / (1 - BETA1**t)) / ((square / (1 - BETA2**t)).sqrt() + 1e-8)
        losses.append(loss.item())
        norms.append(norm)
    return losses, norms


def stepped(model, steps, config):
    take_step = TrainStep(model, make_optimizers(model, config), config)
    results = [take_step(batches, learning_rate=rate) for batches, rate in zip(steps, RATES, strict=True)]
    return zip(*read_results(results, Ranks()), strict=True)


@pytest.mark.parametrize("n_accumulate", [1, 2])
@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_five_steps_are_the_equations(play, n_accumulate, max_grad_norm, weight_decay):
    config = tiny_config(play, **SHAPE, n_accumulate=n_accumulate, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    ours, plain, steps = model_of(config), model_of(config), draw_batches(5, n_accumulate)
    losses, norms = stepped(ours, steps, config)
    expected_losses, expected_norms = written_out(plain, steps, weight_decay=weight_decay, max_grad_norm=max_grad_norm)
    # Sums in another order differ in float32 by 1e-7 of their size. Adam divides a gradient by its own size, so the rounding of a
    # gradient near zero may move its weight visibly, though not far beside the 0.05 that five steps go, and not many weights.
    assert losses == pytest.approx(expected_losses, abs=3e-6)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert min(expected_norms) > 0.05, "or nothing was clipped"
    for (name, weight), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert (weight - expected).abs().max() < 2e-4, name
        assert (weight - expected).abs().mean() < 2e-5, name


def test_two_batches_are_one_of_both(play):
    config = tiny_config(play, **SHAPE)
    ours, other, steps = model_of(config), model_of(config), draw_batches(5, 2)
    joined = [[tuple(torch.cat(rows) for rows in zip(*batches, strict=True))] for batches in steps]
    losses, norms = stepped(ours, steps, config)
    joined_losses, joined_norms = stepped(other, joined, config)
    assert losses == pytest.approx(joined_losses, abs=3e-6)
    assert norms == pytest.approx(joined_norms, rel=1e-4)


def test_bfloat16_stays_close_to_float32(play):
    config = tiny_config(play, **SHAPE)
    steps = draw_batches(5, 2)
    whole, half = model_of(config), model_of(config)
    losses, norms = stepped(whole, steps, config)
    half_losses, half_norms = stepped(half, steps, config.replace(dtype="bfloat16"))
    assert losses != half_losses
    assert half_losses == pytest.approx(losses, abs=0.01)  # 8 bits: each logit is right to 0.4 %, the loss averages 128 of them
    assert half_norms == pytest.approx(norms, rel=0.1)
    assert all(weight.dtype == torch.float32 for weight in half.parameters())


def test_gradients_do_not_pile_up(play):
    config = tiny_config(play, **SHAPE, learning_rate=1e-9, min_learning_rate=0.0)
    model = model_of(config)
    take_step = TrainStep(model, make_optimizers(model, config), config)
    batches = draw_batches(1, 2)[0]
    first, second = read_results([take_step(batches, learning_rate=0.0) for _ in range(2)], Ranks())
    assert first == second
    inputs, targets = batches[0]
    assert first[0] == pytest.approx(math.log(13), abs=0.1), F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
