"""Families as tables: configurations there and back, and a sentence for each that we cannot have."""

from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.weights.families import FAMILIES, family_for, family_of
from family_choices import LLAMA, PHI, TINY

# what the hub's config.json files of these models hold, but for what only text generation and classification read
GPT2: dict[str, Any] = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "vocab_size": 50257,
}  # fmt: skip
PHI_2: dict[str, Any] = {
    "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0,
    "eos_token_id": 50256, "hidden_act": "gelu_new", "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 10240,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4, "qk_layernorm": False, "resid_pdrop": 0.1,
    "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
    "vocab_size": 51200,
}  # fmt: skip
SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
COMMON_SIZES = ("vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size")
SIZES = {
    "gpt2": ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"),
    "phi": (*COMMON_SIZES, "intermediate_size"),
    "llama": (*COMMON_SIZES, "intermediate_size"),
}
BY_FAMILY = {"gpt2": GPT2, "phi": PHI_2, "llama": SMOLLM2}


def translated(settings: dict[str, Any], **changes: Any) -> ModelConfig:
    settings = {**settings, **changes}
    return family_of(settings).config_from_hf(settings)


# --- configurations


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", GPT2),
        ("gpt2-medium", {**GPT2, "n_embd": 1024, "n_head": 16, "n_layer": 24}),
        ("gpt2-large", {**GPT2, "n_embd": 1280, "n_head": 20, "n_layer": 36}),
        ("gpt2-xl", {**GPT2, "n_embd": 1600, "n_head": 25, "n_layer": 48}),
        ("phi-2", PHI_2),
        ("smollm2-135m", SMOLLM2),
    ],
)
def test_real_models_are_our_presets(name: str, settings: dict[str, Any]) -> None:
    assert translated(settings) == ModelConfig.preset(name)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "phi-2", "smollm2-135m"])
def test_presets_are_written_as_the_real_models_settings(name: str) -> None:
    config = ModelConfig.preset(name)
    family = family_for(config)
    written = family.config_to_hf(config)
    assert family.config_from_hf(written) == config
    original = BY_FAMILY[family.name]
    shared = written.keys() & original.keys() - {"n_embd", "n_head", "n_layer"} - set(family.dropouts)
    assert {key: written[key] for key in shared} == {key: original[key] for key in shared}


def test_what_a_file_leaves_out_is_what_the_library_takes() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")
    for name, names in SIZES.items():
        sizes = {key: BY_FAMILY[name][key] for key in names}
        theirs = transformers.AutoConfig.for_model(name, **sizes).to_dict()
        assert FAMILIES[name].config_from_hf(sizes) == FAMILIES[name].config_from_hf(theirs), name


def test_rotation_is_read_in_the_old_form_and_the_new() -> None:
    old = translated(PHI_2, rope_theta=500.0, partial_rotary_factor=0.5)
    new = {key: value for key, value in PHI_2.items() if key not in ("rope_theta", "partial_rotary_factor", "rope_scaling")}
    rotation = {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    assert translated(new, rope_parameters=rotation) == old
    assert translated(PHI_2, rope_parameters=rotation) == old  # the inner values count
    assert translated(PHI_2, rope_scaling={"type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}) == old
    assert (old.rotary_base, old.rotary_dim) == (500.0, 40)


@pytest.mark.parametrize("d_head", [2, 6, 10, 22, 46, 64, 80, 98, 106])
def test_every_number_of_turning_coordinates_survives_its_fraction(d_head: int) -> None:
    for rotary_dim in range(2, d_head + 1, 2):
        config = ModelConfig(**{**TINY, "d_model": 4 * d_head}, **PHI, rotary_dim=rotary_dim)
        assert family_for(config).config_from_hf(family_for(config).config_to_hf(config)).rotary_dim == rotary_dim


@pytest.mark.parametrize(
    ("name", "act"),
    [("gelu", "gelu"), ("gelu_python", "gelu"), ("gelu_pytorch_tanh", "gelu_new"), ("swish", "silu"), ("relu", "relu")],
)
def test_activations_by_their_other_names(name: str, act: str) -> None:
    assert translated(GPT2, activation_function=name).act == act
    activations = pytest.importorskip("transformers.activations", reason="transformers, the oracle here, is not installed")
    from cutaway.model.mlp import ACTIVATIONS

    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    # 1e-12: both compute the same formula in float64 for values up to 6
    torch.testing.assert_close(ACTIVATIONS[act](x), activations.ACT2FN[name](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "change", "sentence"),
    [
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True.* supported is False"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights is False.* supported is True"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention is True"),
        (GPT2, {"activation_function": "gelu_fast"}, "activation_function is 'gelu_fast'; expected one of gelu, "),
        (GPT2, {"activation_function": ["gelu"]}, "activation_function is \\['gelu'\\]; expected one of"),
        (GPT2, {"n_head": 7}, "d_model 768 does not divide into n_heads 7"),
        (GPT2, {"n_layer": 0}, "n_layer is 0; expected a whole number from 1 to"),
        (GPT2, {"n_embd": "768"}, "n_embd is '768'; expected a whole number"),
        (GPT2, {"n_inner": 0}, "n_inner is 0; expected a whole number"),
        (GPT2, {"vocab_size": True}, "vocab_size is True; expected a whole number"),
        (GPT2, {"vocab_size": 2**31}, "vocab_size is 2147483648; expected a whole number from 1 to 16777216"),
        (GPT2, {"n_positions": None}, "lacks n_positions"),
        (GPT2, {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; expected true or false"),
        (GPT2, {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan; expected a number"),
        (GPT2, {"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}"),
        (PHI_2, {"qk_layernorm": True}, "qk_layernorm is True.* supported is False"),
        (PHI_2, {"partial_rotary_factor": 0.0}, "rotary_dim is 0; expected an even number"),
        (PHI_2, {"partial_rotary_factor": 1.5}, "rotary_dim is 120; expected an even number of at most d_head 80"),
        (PHI_2, {"rope_theta": 10**400}, "rope_theta is 1000.*; expected a number"),
        (PHI_2, {"rope_theta": float("inf")}, "rope_theta is inf; expected a number"),
        (PHI_2, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is .*'linear'.*nothing scales"),
        (SMOLLM2, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling is .*'llama3'"),
        (SMOLLM2, {"rope_scaling": {"factor": 8.0}}, "rope_scaling is .*'factor'"),
        (SMOLLM2, {"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "rope_parameters is .*'yarn'"),
        (SMOLLM2, {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters is .*one rotation for all layers"),
        (SMOLLM2, {"rope_parameters": [1]}, r"rope_parameters is \[1\]; expected an object"),
        (SMOLLM2, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5.* supported is 1.0"),
        (SMOLLM2, {"rope_interleaved": True}, "rope_interleaved is True"),
        (SMOLLM2, {"sliding_window": 4096}, "sliding_window is 4096; supported is attention to the whole context of 8192"),
        (SMOLLM2, {"sliding_window": "all"}, "sliding_window is 'all'"),
        (SMOLLM2, {"num_key_value_heads": 2}, "n_heads 9 does not divide into n_kv_heads 2 groups"),
        (SMOLLM2, {"num_key_value_heads": 18}, "n_heads 9 does not divide into n_kv_heads 18 groups"),
        (SMOLLM2, {"head_dim": 63}, "rotary_dim is 63; expected an even number"),
        (SMOLLM2, {"attention_bias": 1}, "attention_bias is 1; expected true or false"),
    ],
)  # fmt: skip
def test_settings_that_we_do_not_compute(settings: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        translated(settings, **change)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (GPT2, {"reorder_and_upcast_attn": True, "use_cache": False, "resid_pdrop": 0.3, "pad_token_id": 0}),
        (PHI_2, {"qk_layernorm": None, "num_key_value_heads": None, "auto_map": {"AutoModel": "remote.Code"}}),
        (SMOLLM2, {"sliding_window": 8192, "head_dim": 64, "partial_rotary_factor": 1.0, "pretraining_tp": 2}),
        (SMOLLM2, {"model_type": None}),
        (SMOLLM2, {"architectures": None}),
        (SMOLLM2, {"architectures": ["LlamaModel"]}),
    ],
)
def test_settings_that_change_nothing(settings: dict[str, Any], change: dict[str, Any]) -> None:
    assert translated(settings, **change) == translated(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
        {"model_type": "bert"},
        {"architectures": ["GPTNeoXForCausalLM"]},
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
        {"model_type": "phi", "architectures": ["LlamaForCausalLM"]},
        {"model_type": ["gpt2"], "architectures": [["GPT2LMHeadModel"]]},
        {"model_type": 5, "architectures": "GPT2LMHeadModel"},
        {},
    ],
)
def test_other_architectures(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not supported; supported are 'gpt2' with GPT2LMHeadModel, 'phi' with ") as caught:
        family_of(settings)
    for value in settings.values():
        assert str(value).strip("[]'") in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"n_kv_heads": 2}, "nearest is gpt2, but n_kv_heads is 2 .there 4."),
        ({"d_head": 6}, "nearest is gpt2, but d_head is 6 .there 4."),
        ({"norm_bias": False}, "nearest is gpt2, but norm_bias is False .there True."),
        ({"mlp_bias": False}, "nearest is gpt2, but mlp_bias is False"),
        (
            {"norm_bias": False, "attn_bias": False, "mlp_bias": False},  # as the default training preset has it
            "but norm_bias is False .there True., attn_bias is False .there True., mlp_bias is False .there True.: train a model with",
        ),
        ({"d_mlp": 0}, "nearest is gpt2, but d_mlp is 0 .there 'at least 1'."),
        ({"n_layers": 0}, "nearest is gpt2, but n_layers is 0"),
        ({"is_causal": False}, "nearest is gpt2, but is_causal is False .there True."),
        ({"tie_embeddings": False, "d_vocab_out": 7}, "nearest is gpt2, but d_vocab_out is 7 .there 31."),
        ({"position": "sinusoidal"}, "position is 'sinusoidal'"),
        ({"position": "attention_only"}, "position is 'attention_only'"),
        ({"norm": "none"}, "norm is 'none'"),
        ({**PHI, "unembed_bias": False}, "nearest is phi, but unembed_bias is False"),
        ({**PHI, "attn_bias": False}, "nearest is phi, but attn_bias is False"),
        ({**LLAMA, "rotary_dim": 2}, "nearest is llama, but rotary_dim is 2 .there 4."),
        ({**LLAMA, "norm_bias": True}, "nearest is llama, but norm_bias is True"),
        ({**LLAMA, "d_head": 6, "d_model": 18}, "nearest is llama, but n_heads is 4 .there 'a divisor of d_model 18'."),
        ({**LLAMA, "gated_mlp": False}, "nearest is llama, but gated_mlp is False"),
    ],
)
def test_shapes_that_no_family_has(choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        family_for(ModelConfig(**{**TINY, **choices}))


def test_what_has_no_effect_stands_in_no_way() -> None:
    assert family_for(ModelConfig(**TINY, dropout=0.2, rotary_base=5.0)).name == "gpt2"
    assert family_for(ModelConfig(**TINY, **LLAMA, dropout=0.2)).name == "llama"


def test_dropout_is_written_for_training_and_not_read() -> None:
    written = FAMILIES["gpt2"].config_to_hf(ModelConfig(**TINY, dropout=0.25))
    assert [written[name] for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")] == [0.25] * 3
    assert FAMILIES["gpt2"].config_from_hf(written).dropout == 0
