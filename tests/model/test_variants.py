"""Every shape builds, runs and learns; its weights are drawn as the table in `init_weights` says."""

import doctest
import importlib
import math
import pkgutil
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway.model
from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]


def test_every_parameter_gets_a_finite_gradient(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    logits = model(tokens)
    assert logits.shape == (2, 9, variant.d_vocab_out)
    F.cross_entropy(logits.flatten(0, 1), tokens.flatten() % variant.d_vocab_out).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # a softmax does not change when every key moves alike, so a bias of keys that do not turn has no gradient but rounding
        if not (name.endswith("W_K.bias") and variant.position != "rotary"):
            assert weight.grad.abs().max() > 1e-9, name


def test_a_model_learns_answers_by_heart(variant: ModelConfig, make_tokens: Callable[..., Tensor]) -> None:
    model = Transformer(variant, generator=torch.Generator().manual_seed(0))
    tokens, targets = make_tokens(), make_tokens(seed=2) % variant.d_vocab_out
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(variant.d_vocab_out), abs=0.2)  # weights of size 0.02 say nothing yet
    assert losses[-1] < 0.6 * losses[0]


def test_the_embedding_is_tied_or_not(variant: ModelConfig) -> None:
    model = Transformer(variant)
    assert (model.unembed.W_U.weight is model.embed.W_E) == variant.tie_embeddings
    assert model.config is variant


def test_a_model_without_layers_is_its_bigrams(tiny_config: ModelConfig) -> None:
    model = Transformer(tiny_config.replace(n_layers=0, position="none", norm="none", tie_embeddings=False))
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(model(tokens), (model.embed.W_E @ model.unembed.W_U.weight.T)[tokens])


def test_tokens_need_no_batch(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    # the same sums of the same float64 numbers, in another order
    torch.testing.assert_close(model(tokens[0]), model(tokens)[0], rtol=0, atol=1e-12)


# --- the weights drawn

MIDDLE = {"d_vocab": 500, "n_ctx": 200, "n_layers": 4, "n_heads": 4, "d_model": 192}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"position": "attention_only", "tie_embeddings": False},
        {"gated_mlp": True, "norm": "rmsnorm", "position": "rotary", "block": "parallel", "unembed_bias": True},
    ],
    ids=["gpt2", "attention_only", "gated"],
)
def test_weights_are_drawn_as_the_table_says(choices: dict[str, object]) -> None:
    model = Transformer(ModelConfig(**{**MIDDLE, **choices}), generator=torch.Generator().manual_seed(0))
    writing = 0.02 / math.sqrt(2 * 4)
    stds = {"W_O": writing, "W_out": writing, "W_pos": 0.01}
    for name, weight in model.named_parameters():
        part = name.split(".")[-2] if name.endswith("weight") else name.split(".")[-1]
        if name.endswith("bias"):
            assert not weight.any(), name
        elif part.startswith("ln"):
            assert (weight == 1).all(), name
        else:
            # at least 36,864 draws: the standard deviation is known to 1 / sqrt(2 * 36,864) = 0.4 %, and 5 of those are 2 %
            std = stds.get(part, 0.02)
            assert weight.std().item() == pytest.approx(std, rel=0.02), name
            assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel()), name
            tail = (weight.abs() > 2 * std).double().mean().item()
            assert tail == pytest.approx(0.0455, abs=0.006), name  # a normal distribution, not a uniform one


def test_another_width_can_be_asked_for(tiny_config: ModelConfig) -> None:
    model = Transformer(tiny_config, generator=torch.Generator().manual_seed(0))
    before = model.embed.W_E.detach().clone()
    model.init_weights(torch.Generator().manual_seed(0), std=0.04)
    torch.testing.assert_close(model.embed.W_E.detach(), 2 * before)


def test_one_seed_gives_one_model(variant: ModelConfig) -> None:
    state = torch.get_rng_state()
    first, same, other = (Transformer(variant, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state), "torch's global generator was used though another was given"
    for (name, weight), again in zip(first.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(weight, again), name
    assert not torch.equal(first.embed.W_E, other.embed.W_E)


def test_without_a_generator_the_global_one_is_used(tiny_config: ModelConfig) -> None:
    torch.manual_seed(11)
    first = Transformer(tiny_config)
    torch.manual_seed(11)
    assert torch.equal(first.embed.W_E, Transformer(tiny_config).embed.W_E)


def test_running_uses_no_randomness(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model, state = make_model(variant), torch.get_rng_state()
    model(tokens, hooks=NO_HOOKS)
    model.hook_names()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_is_built_where_torch_is_told_to(tiny_config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(tiny_config)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


# --- examples

MODULES = ["cutaway.config", "cutaway.hooks", "cutaway.runtime"] + [
    f"cutaway.model.{module.name}" for module in pkgutil.iter_modules(cutaway.model.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    failures, n_examples = doctest.testmod(importlib.import_module(name))
    assert failures == 0
    if name not in {"cutaway.runtime", "cutaway.model.masks", "cutaway.model.kv_cache"}:
        assert n_examples > 0, "doctest found no examples: are they hidden by a decorator?"
