"""The transformers library's own models of every family, tiny and at odd sizes: the oracle for reading and writing its folders."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 15, "n_head": 3}),
    "gpt2-untied": (
        "gpt2",
        {"n_embd": 14, "n_head": 7, "n_inner": 23, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "gpt2-other-epsilon": ("gpt2", {"n_embd": 9, "n_head": 1, "layer_norm_epsilon": 1e-3, "activation_function": "gelu"}),
    "phi": ("phi", {"hidden_size": 36, "num_attention_heads": 3}),
    "phi-grouped-tied": (
        "phi",
        {
            "hidden_size": 60,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.4,
            "rope_theta": 100.0,
            "layer_norm_eps": 1e-3,
            "tie_word_embeddings": True,
        },
    ),
    "llama": ("llama", {"hidden_size": 30, "num_attention_heads": 3, "rope_theta": 100_000.0}),
    "llama-grouped": ("llama", {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 1e-3}),
    "llama-multi-query-biases-tied": (
        "llama",
        {
            "hidden_size": 50,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "llama-wide-heads": ("llama", {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 14}),
}

_SIZES = {
    "gpt2": {"n_positions": 19, "n_layer": 3},
    "phi": {"max_position_embeddings": 19, "num_hidden_layers": 3, "intermediate_size": 41},
    "llama": {"max_position_embeddings": 19, "num_hidden_layers": 3, "intermediate_size": 41},
}
_NO_IDS = {"bos_token_id": None, "eos_token_id": None}  # theirs are larger than the tiny vocabulary


def make_theirs(case: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """Build their model of a case in float64, with weights large enough that no part is nearly linear."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, settings = CASES[case]
    config = AutoConfig.for_model(family, **{"vocab_size": 37, **_NO_IDS, **_SIZES[family], **settings, **changes})
    # their eager attention rounds its softmax to float32 in some families
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            centre = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=generator))
    return normalise_in_float64(theirs)


def normalise_in_float64(model: nn.Module) -> nn.Module:
    """Let the library's RMSNorm work in the precision of its input: it rounds to float32, and so would hide what we look for."""
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = lambda x, norm=module: F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
    return model


def saved(theirs: nn.Module, folder: Path, **options: Any) -> Path:
    theirs.save_pretrained(folder, **options)
    return folder


def add_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file({**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors")
