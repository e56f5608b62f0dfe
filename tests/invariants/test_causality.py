"""What may depend on what: nothing on a later token, bit for bit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]


def with_another_token(tokens: Tensor, pos: int, d_vocab: int) -> Tensor:
    changed = tokens.clone()
    changed[:, pos] = (changed[:, pos] + 1) % d_vocab
    return changed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_token_changes_no_logit_before_it(
    causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor, dtype: torch.dtype
) -> None:
    model = make_model(causal_variant, dtype=dtype)
    logits = model(tokens)
    for pos in range(9):
        changed = model(with_another_token(tokens, pos, causal_variant.d_vocab))
        # a key that is masked out counts with a weight of exactly zero: no tolerance
        assert torch.equal(changed[:, :pos], logits[:, :pos])
        for later in range(pos, 9):
            assert not torch.equal(changed[:, later], logits[:, later]), f"position {later} does not see {pos}"


def test_a_token_changes_no_logit_before_it_in_a_long_context(make_model: MakeModel) -> None:
    """Long enough that fused attention works in several blocks of keys."""
    config = ModelConfig(d_vocab=31, n_ctx=600, n_layers=2, n_heads=2, d_model=32, position="rotary")
    model = make_model(config, dtype=torch.float32)
    tokens = torch.randint(31, (1, 600), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(tokens)
        for pos in (1, 255, 256, 511, 513, 599):
            changed = model(with_another_token(tokens, pos, 31))
            assert torch.equal(changed[:, :pos], logits[:, :pos])
            assert not torch.equal(changed[:, pos], logits[:, pos])


def test_gradients_do_not_come_from_later_tokens(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    resid = model.embed(tokens).detach().requires_grad_()
    model.unembed(model.run_blocks(resid))[:, 4].sum().backward()
    assert not resid.grad[:, 5:].any()
    assert resid.grad[:, :5].abs().amin(dim=(0, 2)).all()


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary", "attention_only", "none"])
def test_an_encoder_sees_both_ways(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, position: str) -> None:
    model = make_model(tiny_config.replace(is_causal=False, position=position))
    logits, changed = model(tokens), model(with_another_token(tokens, 8, 31))
    for pos in range(9):
        assert not torch.equal(changed[:, pos], logits[:, pos])


@pytest.mark.parametrize(
    ("position", "has_order"),
    [("learned", True), ("sinusoidal", True), ("rotary", True), ("attention_only", True), ("none", False)],
)
def test_positions_give_order(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, position: str, has_order: bool
) -> None:
    """An encoder without positions reads a bag of words: exchanging two tokens leaves all others as they were."""
    model = make_model(tiny_config.replace(is_causal=False, position=position))
    exchanged = tokens.clone()
    exchanged[:, [0, 1]] = tokens[:, [1, 0]]
    apart = (model(exchanged)[:, 2:] - model(tokens)[:, 2:]).abs().max().item()
    assert apart > 1e-3 if has_order else apart < 1e-12  # float64: the same sum in another order
