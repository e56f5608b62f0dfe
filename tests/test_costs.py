"""Bytes by arithmetic against tensors that are really there."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cutaway import costs
from cutaway.config import ModelConfig
from cutaway.measure import peak_bytes
from cutaway.model import KVCache, Transformer
from cutaway.training.step import next_token_loss

SHAPES = {
    "GPT-2's, tiny": ModelConfig(d_vocab=97, n_ctx=64, n_layers=3, n_heads=4, d_model=32),
    "a large vocabulary": ModelConfig(d_vocab=2000, n_ctx=64, n_layers=2, n_heads=2, d_model=16),
    "a small vocabulary": ModelConfig(d_vocab=5, n_ctx=256, n_layers=3, n_heads=2, d_model=32),
    "without biases": ModelConfig(
        d_vocab=300, n_ctx=64, n_layers=2, n_heads=2, d_model=32, norm_bias=False, attn_bias=False, mlp_bias=False, act="gelu"
    ),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> ModelConfig:
    return SHAPES[request.param]


def drawn(config: ModelConfig, n_pos: int) -> tuple[Transformer, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return Transformer(config, generator=generator), torch.randint(config.d_vocab, (1, n_pos), generator=generator)


def test_parameters_and_training_state(variant: ModelConfig) -> None:
    weights = list(Transformer(variant).parameters())
    assert costs.n_parameters(variant) == sum(weight.numel() for weight in weights)
    assert costs.train_state_bytes(variant) == sum(4 * weight.nbytes for weight in weights)


@pytest.mark.parametrize(("name", "millions"), [("gpt2", 124), ("gpt2-medium", 355), ("gpt2-large", 774), ("gpt2-xl", 1558)])
def test_sizes_have_the_parameters_that_are_published(name: str, millions: int) -> None:
    assert round(costs.n_parameters(ModelConfig.preset(name)) / 1e6) == millions


def test_keys_and_values_of_a_token(causal_variant: ModelConfig) -> None:
    kv = KVCache(causal_variant, n_slots=5, dtype=torch.bfloat16)
    assert 5 * costs.kv_bytes_a_token(causal_variant, torch.bfloat16) == sum(x.nbytes for x in (*kv.k, *kv.v))


def test_attention_is_what_torch_counts_between_activations(shape: ModelConfig) -> None:
    model, tokens = drawn(shape, 48)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens)
    counts = counter.get_flop_counts()["Global"]
    assert costs.attention_flops(shape, 48) == counts[torch.ops.aten.bmm]


@pytest.mark.parametrize("n_pos", [3, 40, 64])
def test_a_forward_pass_holds_what_is_said(shape: ModelConfig, n_pos: int) -> None:
    model, tokens = drawn(shape, n_pos)
    with torch.inference_mode():
        peak = peak_bytes(lambda: model(tokens), known=model.parameters())
    assert costs.forward_peak_bytes(shape, n_pos) == peak


# gradients of biases and norms are there beside what is counted, a few thousandths in models so small; where activations and
# gradients weigh alike, the peak lies between the moments that are counted
@pytest.mark.parametrize(("n_pos", "tolerance"), [(2, 0.01), (20, 0.03), (64, 0.01)])
def test_a_step_holds_what_is_said(shape: ModelConfig, n_pos: int, tolerance: float) -> None:
    model, tokens = drawn(shape, n_pos)
    peak = peak_bytes(lambda: next_token_loss(model, tokens, tokens).backward(), known=[tokens, *model.parameters()])
    assert costs.step_peak_bytes(shape, n_pos) == pytest.approx(peak, rel=tolerance)


def test_bfloat16_takes_half(shape: ModelConfig) -> None:
    model, tokens = drawn(shape, 8)
    model.to(torch.bfloat16)
    with torch.inference_mode():
        peak = peak_bytes(lambda: model(tokens), known=model.parameters())
    assert costs.forward_peak_bytes(shape, 8, torch.bfloat16) == peak


@pytest.mark.parametrize(
    ("name", "is_like"),
    [("gpt2-xl", True), ("shakespeare-char", True), ("smollm2-135m", False), ("phi-2", False), ("attn-only-1l", False)],
)
def test_which_shapes_are_gpt2s(name: str, is_like: bool) -> None:
    assert costs.is_like_gpt2(ModelConfig.preset(name)) is is_like
