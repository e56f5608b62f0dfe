"""ModelConfig: what follows from what, what does not fit, and the shapes that have names."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.presets import MODEL_PRESETS

SIZES: dict[str, Any] = {"d_vocab": 31, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 16}


def test_sizes_follow_from_the_others() -> None:
    config = ModelConfig(**SIZES, position="rotary")
    assert (config.n_kv_heads, config.d_head, config.d_mlp, config.d_vocab_out, config.rotary_dim) == (4, 4, 64, 31, 4)
    assert ModelConfig(**SIZES).rotary_dim == 0


def test_sizes_given_stay() -> None:
    given = {"n_kv_heads": 2, "d_head": 6, "d_mlp": 0, "d_vocab_out": 5, "rotary_dim": 2}
    config = ModelConfig(**SIZES, **given, position="rotary", tie_embeddings=False)
    assert {name: getattr(config, name) for name in given} == given


def test_a_configuration_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig(**SIZES).n_layers = 3  # type: ignore[misc]


def test_equal_shapes_are_equal_and_hash_alike() -> None:
    assert ModelConfig(**SIZES) == ModelConfig(**SIZES, d_mlp=64)
    assert hash(ModelConfig(**SIZES)) == hash(ModelConfig(**SIZES, d_mlp=64))


def test_json_and_back(variant: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(variant.to_dict()))) == variant


def test_replace_checks_what_it_makes() -> None:
    config = ModelConfig(**SIZES).replace(n_layers=5)
    assert config.n_layers == 5
    with pytest.raises(ValueError, match="n_layers is -1"):
        config.replace(n_layers=-1)


def test_replace_lets_sizes_follow_again_and_keeps_those_given() -> None:
    config = ModelConfig(**SIZES, position="rotary").replace(d_model=32)
    assert (config.d_head, config.d_mlp, config.rotary_dim) == (8, 128, 8)
    assert ModelConfig(**SIZES, d_mlp=40).replace(d_model=32).d_mlp == 40
    assert ModelConfig(**SIZES).replace(position="rotary").rotary_dim == 4
    assert ModelConfig(**SIZES, n_kv_heads=2).replace(n_heads=8).n_kv_heads == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_vocab": 0}, "d_vocab is 0; expected a whole number of at least 1"),
        ({"n_ctx": -3}, "n_ctx is -3"),
        ({"n_layers": -1}, "n_layers is -1; expected a whole number of at least 0"),
        ({"n_heads": True}, "n_heads is True"),
        ({"d_model": 16.0}, "d_model is 16.0"),
        ({"d_mlp": "64"}, "d_mlp is '64'"),
        ({"d_head": 0}, "d_head is 0"),
        ({"norm": "batchnorm"}, "norm is 'batchnorm'; expected one of layernorm, rmsnorm, none"),
        ({"position": "alibi"}, "position is 'alibi'"),
        ({"act": "tanh"}, "act is 'tanh'"),
        ({"block": "both"}, "block is 'both'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"n_heads": 3}, "d_model 16 does not divide into n_heads 3"),
        ({"n_kv_heads": 3}, "n_heads 4 does not divide into n_kv_heads 3 groups"),
        ({"position": "rotary", "rotary_dim": 3}, "rotary_dim is 3; expected an even number of at most d_head 4"),
        ({"position": "rotary", "rotary_dim": 6}, "rotary_dim is 6"),
        ({"position": "rotary", "d_head": 5}, "rotary_dim is 5"),
        ({"d_vocab_out": 7}, "d_vocab_out 7 is not d_vocab 31: set tie_embeddings=False"),
        ({"is_causal": "yes"}, "is_causal is 'yes'; expected True or False"),
        ({"attn_bias": None}, "attn_bias is None; expected True or False"),
        ({"tie_embeddings": 1}, "tie_embeddings is 1; expected True or False"),
        ({"dropout": "0.1"}, "dropout is '0.1'; expected a number"),
        ({"norm_eps": True}, "norm_eps is True; expected a number"),
        ({"norm": ["layernorm"]}, "norm is .'layernorm'.; expected one of"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**SIZES, **changes})


def test_fields_unknown_or_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown configuration field\(s\) hidden_size, n_embd"):
        ModelConfig.from_dict({**SIZES, "n_embd": 3, "hidden_size": 4})
    with pytest.raises(ValueError, match=r"missing configuration field\(s\) n_ctx, d_model"):
        ModelConfig.from_dict({"d_vocab": 31, "n_layers": 2, "n_heads": 4})
    with pytest.raises(ValueError, match=r"no model preset 'gpt3'.*gpt2, "):
        ModelConfig.preset("gpt3")


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_presets_take_changes(name: str) -> None:
    assert ModelConfig.preset(name, n_layers=1).n_layers == 1


# The sizes that the models' authors publish: openai/gpt-2 (124M, 355M, 774M, 1.5B), microsoft/phi-2 and
# HuggingFaceTB/SmolLM2-135M, as their weight files count. A tied matrix counts once.
@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("phi-2", 2_779_683_840),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig.preset(name))
    assert sum(weight.numel() for weight in model.parameters()) == n_parameters


def test_baby_gpt_has_the_number_of_parameters_that_nanogpt_prints() -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig.preset("shakespeare-char"))
    # nanoGPT prints 0.80M for this shape, without the position vectors
    n_parameters = sum(weight.numel() for name, weight in model.named_parameters() if "W_pos" not in name)
    assert n_parameters == 65 * 128 + 4 * (12 * 128**2 + 2 * 128) + 128
    assert round(n_parameters / 1e6, 2) == 0.80


@pytest.mark.parametrize("name", ["norm_eps", "rotary_base"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a number above 0"):
        ModelConfig.preset("gpt2", **{name: value})
