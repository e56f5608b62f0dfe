"""GGUF files for tests, written by the `gguf` package: models of the transformers library, as llama.cpp's converters lay them out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

BYTE_LETTERS = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]

TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*BYTE_LETTERS, "he", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 257 + [3],
    "tokenizer.ggml.merges": ["h e"],
    "tokenizer.ggml.eos_token_id": 257,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}<|im_end|>",
}


def write_gguf(
    path: Path,
    architecture: str,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray | tuple[np.ndarray, gguf.GGMLQuantizationType]],
) -> Path:
    """Write a file; a tensor is an array of numbers, or the bytes of its blocks with their type."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        match value:
            case int() if key == "general.alignment":
                writer.add_custom_alignment(value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, tensor in tensors.items():
        array, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(theirs: nn.Module, *, is_fused: bool = False) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture, metadata and tensors of a model as llama.cpp's convert_hf_to_gguf writes them, in float32."""
    weights = {name: tensor.detach().float().numpy() for name, tensor in theirs.state_dict().items()}
    if theirs.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    config = theirs.config
    match config.model_type:
        case "gpt2":
            return "gpt2", _gpt2_fields(config), _gpt2_tensors(weights)
        case "phi":
            return "phi2", _phi_fields(config), _phi_tensors(weights, is_fused=is_fused)
        case _:
            return "llama", _llama_fields(config), _llama_tensors(weights, config)


def _gpt2_fields(config: Any) -> dict[str, Any]:
    return {
        "gpt2.context_length": config.n_positions,
        "gpt2.embedding_length": config.n_embd,
        "gpt2.feed_forward_length": 4 * config.n_embd,
        "gpt2.block_count": config.n_layer,
        "gpt2.attention.head_count": config.n_head,
        "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "general.file_type": 0,
    }


def _phi_fields(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "phi2.context_length": config.max_position_embeddings,
        "phi2.embedding_length": config.hidden_size,
        "phi2.feed_forward_length": config.intermediate_size,
        "phi2.block_count": config.num_hidden_layers,
        "phi2.attention.head_count": config.num_attention_heads,
        "phi2.attention.head_count_kv": config.num_attention_heads,
        "phi2.attention.layer_norm_epsilon": config.layer_norm_eps,
        "phi2.rope.dimension_count": int(config.rope_parameters["partial_rotary_factor"] * d_head),
    }


def _llama_fields(config: Any) -> dict[str, Any]:
    return {
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.vocab_size": config.vocab_size,
        "general.name": "tiny",
        "general.license": "mit",
    }


def _renamed(weights: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, array in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def _gpt2_tensors(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {name: array.T if name.endswith(conv1d) else array for name, array in weights.items()}
    return _renamed(
        weights,
        {
            "transformer.": "",
            "h.": "blk.",
            "wte": "token_embd",
            "wpe": "position_embd",
            "ln_1": "attn_norm",
            "ln_2": "ffn_norm",
            "ln_f": "output_norm",
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
    )


def _phi_tensors(weights: dict[str, np.ndarray], *, is_fused: bool) -> dict[str, np.ndarray]:
    tensors = _renamed(
        weights,
        {
            "model.layers": "blk",
            "model.embed_tokens": "token_embd",
            "model.final_layernorm": "output_norm",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
    )
    if is_fused:  # as the first phi-2 on the hub had them
        for name in [name for name in tensors if "attn_q." in name]:
            parts = [tensors.pop(name.replace("attn_q.", f"attn_{part}.")) for part in "qkv"]
            tensors[name.replace("attn_q.", "attn_qkv.")] = np.concatenate(parts)
    return tensors


def _llama_tensors(weights: dict[str, np.ndarray], config: Any) -> dict[str, np.ndarray]:
    tensors = _renamed(
        weights,
        {
            "model.layers": "blk",
            "model.embed_tokens": "token_embd",
            "model.norm": "output_norm",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        },
    )
    n_heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return {name: _permuted(array, n_heads.get(name.split(".")[-2])) for name, array in tensors.items()}


def _permuted(array: np.ndarray, n_heads: int | None) -> np.ndarray:
    """Put the halves of each head side by side, coordinate by coordinate, where llama.cpp's rotation looks for its pairs."""
    if n_heads is None:
        return array
    half = len(array) // n_heads // 2
    order = [head * 2 * half + part * half + pair for head in range(n_heads) for pair in range(half) for part in range(2)]
    return array[order]


def write_llama(path: Path, *, changes: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None) -> Path:
    """Write a Llama of one layer with 258 tokens and d_model 256, in which some metadata (None: left out) and tensors are changed."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> np.ndarray:
        return torch.randn(shape, generator=generator).numpy()

    fields = {
        **TOKENIZER,
        "llama.context_length": 64,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.block_count": 1,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        **(changes or {}),
    }
    held = {
        "token_embd.weight": drawn(258, 256),
        "output_norm.weight": drawn(256),
        "blk.0.attn_norm.weight": drawn(256),
        "blk.0.attn_q.weight": drawn(256, 256),
        "blk.0.attn_k.weight": drawn(128, 256),
        "blk.0.attn_v.weight": drawn(128, 256),
        "blk.0.attn_output.weight": drawn(256, 256),
        "blk.0.ffn_norm.weight": drawn(256),
        "blk.0.ffn_gate.weight": drawn(512, 256),
        "blk.0.ffn_up.weight": drawn(512, 256),
        "blk.0.ffn_down.weight": drawn(256, 512),
        **(tensors or {}),
    }
    return write_gguf(
        path,
        "llama",
        {key: value for key, value in fields.items() if value is not None},
        {name: tensor for name, tensor in held.items() if tensor is not None},
    )
