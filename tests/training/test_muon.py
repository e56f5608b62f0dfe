"""Muon against its equations on singular values, and against torch's own."""

import pytest
import torch
from torch import nn

from cutaway.model import Transformer
from cutaway.runs import Run
from cutaway.runtime import seeded_generator
from cutaway.training import resume, train
from cutaway.training.muon import Muon, orthogonalize
from cutaway.training.optimizer import make_optimizers
from cutaway.weights import stream_tensors
from tiny_training import learned, tiny_config


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=seeded_generator(7))


def turned(matrix):
    """Return what five rounds of the iteration make of each singular value, and so of the matrix: the rounds keep its vectors."""
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return U @ torch.diag(s) @ Vh


@pytest.mark.parametrize("shape", [(8, 8), (6, 24), (24, 6), (5, 1)])
def test_it_is_the_iteration_on_singular_values(shape):
    matrices = draw(3, *shape)
    expected = torch.stack([turned(matrix) for matrix in matrices])
    # The norm is divided by with 1e-7 added to it, which moves a value by 1e-8 of itself, steep rounds by up to 3.4^5 times that.
    torch.testing.assert_close(orthogonalize(matrices), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_out_near_one(dtype):
    matrices = draw(4, 32, 64, dtype=torch.float32)
    values = torch.linalg.svdvals(orthogonalize(matrices, dtype=dtype))
    assert values.min() > 0.65
    assert values.max() < 1.25
    spread = torch.linalg.svdvals(matrices / torch.linalg.matrix_norm(matrices, keepdim=True))
    assert spread.max() > 3 * spread.min(), "or there was nothing to do"


def test_no_gradient_makes_no_direction():
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


def test_steps_are_the_equations():
    start, gradients = [draw(6, 8), draw(6, 8) + 1, draw(8, 2)], draw(4, 3, 8, 8)
    weights = [nn.Parameter(each.clone()) for each in start]
    optimizer = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.3)
    means = [torch.zeros_like(each) for each in start]
    for gradient in gradients:
        for index, weight in enumerate(weights):
            weight.grad = gradient[index][: weight.shape[0], : weight.shape[1]].contiguous()
            means[index] = 0.9 * means[index] + 0.1 * weight.grad
            ahead = 0.9 * means[index] + 0.1 * weight.grad
            start[index] = (1 - 0.1 * 0.3) * start[index] - 0.1 * 0.2 * max(weight.shape) ** 0.5 * turned(ahead)
        optimizer.step()
    for weight, expected in zip(weights, start, strict=True):
        torch.testing.assert_close(weight.data, expected, atol=1e-5, rtol=0)  # as above


def test_steps_are_torch_s():
    torch_s = getattr(torch.optim, "Muon", None)
    if torch_s is None:
        pytest.skip("this torch has no Muon to compare with")
    ours, theirs = ([nn.Parameter(draw(*shape, dtype=torch.float32)) for shape in ((16, 32), (16, 32), (32, 16))] for _ in "12")
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    one = Muon(ours, dtype=torch.bfloat16, **settings)
    other = torch_s(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    before = [weight.detach().clone() for weight in ours]
    for step in range(3):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = its.grad = draw(3, *mine.shape, dtype=torch.float32)[step]
        one.step()
        other.step()
    for mine, its, was in zip(ours, theirs, before, strict=True):
        # 8 bits in products of products: a part in a hundred of how far the weights went
        assert (mine - its).norm() < 0.02 * (mine - was).norm()


def test_a_move_is_as_long_as_adamw_s():
    for shape in ((16, 16), (16, 64), (64, 16)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = draw(*shape, dtype=torch.float32)
        Muon([weight], lr=1.0).step()
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)  # singular values are near 1, not 1


def test_it_takes_the_blocks_matrices_and_adamw_the_rest(variant, config):
    model = Transformer(variant)
    optimizers = make_optimizers(model, config.replace(optimizer="muon", learning_rate=0.01, weight_decay=0.3, beta1=0.8))
    mover = {id(weight): type(each).__name__ for each in optimizers for group in each.param_groups for weight in group["params"]}
    assert sum(len(group["params"]) for each in optimizers for group in each.param_groups) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        is_turned = name.startswith("blocks.") and weight.ndim == 2
        assert mover[id(weight)] == ("Muon" if is_turned else "AdamW"), name
    *muon, _ = optimizers
    assert all(
        (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.8, 0.3) for each in muon for group in each.param_groups
    )


def test_a_run_by_muon_learns_and_goes_on_bit_for_bit(play, tmp_path):
    config = tiny_config(play, optimizer="muon", schedule="linear", learning_rate=0.01)
    whole = train(config.replace(out=str(tmp_path / "whole")), quiet=True)
    losses = Run(whole).metrics().curve("val_loss")[1]
    assert losses[-1] < losses[0] - 0.1

    def stop(step, model):
        if step == 7:
            raise RuntimeError("stopped")
        return {}

    with pytest.raises(RuntimeError, match="stopped"):
        train(config.replace(out=str(tmp_path / "run"), watch_every=1), observers={"stop": stop}, quiet=True)
    run = Run(tmp_path / "run")
    assert run.latest_checkpoint().step == 6
    names = {name.rpartition(".")[::2] for name, _ in stream_tensors(run.latest_checkpoint().path / "optimizer.safetensors")}
    assert ("blocks.0.attn.W_Q.weight", "momentum_buffer") in names
    assert ("embed.W_E", "exp_avg_sq") in names
    assert ("embed.W_E", "momentum_buffer") not in names
    resume(run.path, quiet=True)
    assert learned(run.path) == learned(whole)
