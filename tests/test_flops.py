"""Operations by arithmetic against those that torch counts as they happen, and the rate of a device."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cutaway.config import ModelConfig
from cutaway.flops import forward_flops, product_flops_per_s, training_flops
from cutaway.model import Transformer
from cutaway.training.step import next_token_loss


def counted(function: Callable[[], object]) -> int:
    # Torch knows no count of its fused CPU kernel; the other form does the same products one by one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_a_forward_pass(variant: ModelConfig, make_model: Callable[..., Transformer], tokens: Tensor) -> None:
    model = make_model(variant)
    n_rows, n_pos = tokens.shape
    with torch.no_grad():
        assert counted(lambda: model(tokens)) == n_rows * forward_flops(variant, n_pos)


def test_a_step_of_training(causal_variant: ModelConfig, make_model: Callable[..., Transformer], tokens: Tensor) -> None:
    model = make_model(causal_variant)
    n_rows, n_pos = tokens.shape
    targets = tokens % causal_variant.d_vocab_out
    found = counted(lambda: next_token_loss(model, tokens, targets).backward())
    assert found == n_rows * training_flops(causal_variant, n_pos)


def test_gpt2_is_what_everybody_says() -> None:
    config = ModelConfig.preset("gpt2")
    n_weights = sum(
        weight.numel() for name, weight in Transformer(config).named_parameters() if "pos" not in name and weight.ndim > 1
    )
    attention = 12 * config.n_layers * config.d_model * 1024  # a token, as in Chowdhery et al. 2022, appendix B
    assert training_flops(config, 1024) / 1024 == 6 * n_weights + attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_rate_is_that_of_a_product_timed_otherwise(dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    rate = product_flops_per_s(dtype, size=256)
    assert torch.equal(torch.get_rng_state(), state)
    left, right = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    started = time.perf_counter()
    for _ in range(20):
        left @ right
    mean = 20 * 2 * 256**3 / (time.perf_counter() - started)
    assert 0.9 * mean < rate  # the best of many is not below the mean, but for a machine that was busy then
