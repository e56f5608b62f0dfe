"""What is done with a model gives on a GPU what it gives on the CPU: losses in any type, text, sweeps."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from compiled_on_device import run_compiled
from torch import Tensor

from cutaway import edits, metrics, run_with_cache, sweep
from cutaway.config import ModelConfig
from cutaway.generation import Sampling, decode
from cutaway.model import Transformer
from cutaway.training.step import next_token_loss

DEVICE = "cuda"
MakeModel = Callable[..., Transformer]


def loss_and_gradient(model: Transformer, tokens: Tensor, dtype: torch.dtype) -> tuple[float, Tensor]:
    """The loss, and all gradients as one vector."""
    targets = tokens.roll(-1, dims=1) % model.config.d_vocab_out
    loss = next_token_loss(model, tokens, targets, dtype=dtype)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([gradient.flatten().double().cpu() for gradient in gradients])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # 24 or 8 bits of every factor, through two layers whose weights are large: a few hundred roundings, which mostly cancel
    [(torch.float32, 1e-4), (torch.bfloat16, 0.1)],
    ids=str,
)
def test_loss_and_gradients_in_the_types_of_training(
    causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    loss, gradient = loss_and_gradient(make_model(causal_variant), tokens, torch.float32)  # in float64 it stays
    model = make_model(causal_variant, dtype=torch.float32).to(DEVICE)
    found_loss, found = loss_and_gradient(model, tokens.to(DEVICE), dtype)
    assert found_loss == pytest.approx(loss, rel=tolerance)
    assert (found - gradient).norm() < tolerance * gradient.norm()


def greedy(model: Transformer, prompts: list[list[int]], *, compile: bool = False) -> list[tuple[int, int]]:
    steps = decode(model, prompts, max_new_tokens=15, sampling=Sampling(temperature=0.0), compile=compile, tell=lambda _: None)
    return [each for step in steps for each in step]


def test_the_text_is_the_cpus(causal_variant: ModelConfig, make_model: MakeModel) -> None:
    model, prompts = make_model(causal_variant.replace(d_vocab_out=31)), [[3, 1, 4, 1], [5], [9, 2]]
    expected = greedy(model, prompts)  # and past the context of 12
    assert greedy(copy.deepcopy(model).to(DEVICE), prompts) == expected


# sums in another order, in 24 bits or in 8, of logits of size 1 to 10
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.5)])
def test_compiled_decoding_is_decoding_and_one_cuda_graph(dtype: str, tolerance: float) -> None:
    worst, has_changed, told, n_skips = json.loads(run_compiled("decode", DEVICE, dtype))
    assert worst < tolerance
    assert not has_changed, "a step wrote into logits that were handed out"
    assert (told, n_skips) == ([], 0)


@pytest.mark.parametrize("name", ["blocks.1.resid_pre", "blocks.0.attn.z", "blocks.1.mlp_out", "blocks.1.attn.pattern"])
def test_a_sweep_is_the_cpus(tiny_model: Transformer, make_tokens: Callable[..., Tensor], name: str) -> None:
    clean, corrupted = make_tokens(seed=1), make_tokens(seed=2)

    def scores(model: Transformer, device: str) -> Tensor:
        _, cache = run_with_cache(model, corrupted.to(device), names=name)
        variants = [[edits.patch(name, cache, pos=pos)] for pos in range(clean.shape[1])]
        return sweep(model, clean.to(device), variants, metrics.logit_diff(3, 7)).cpu()

    expected = scores(tiny_model, "cpu")
    found = scores(copy.deepcopy(tiny_model).to(DEVICE), DEVICE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)  # float64, sums in another order
    assert expected.std() > 0.01
