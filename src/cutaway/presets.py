"""Shapes that have names: the fields of `ModelConfig` in which each differs from GPT-2."""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL_PRESETS"]

_GPT2: dict[str, Any] = {"d_vocab": 50_257, "n_ctx": 1024}
_ATTENTION_ONLY: dict[str, Any] = {"d_mlp": 0, "position": "attention_only", "tie_embeddings": False}

MODEL_PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al. 2019, table 2
    "gpt2": {**_GPT2, "n_layers": 12, "n_heads": 12, "d_model": 768},
    "gpt2-medium": {**_GPT2, "n_layers": 24, "n_heads": 16, "d_model": 1024},
    "gpt2-large": {**_GPT2, "n_layers": 36, "n_heads": 20, "d_model": 1280},
    "gpt2-xl": {**_GPT2, "n_layers": 48, "n_heads": 25, "d_model": 1600},
    # Javaheripi et al. 2023: one normalisation feeds attention and MLP side by side, a quarter of each head rotates
    "phi-2": {
        "d_vocab": 51_200, "n_ctx": 2048, "n_layers": 32, "n_heads": 32, "d_model": 2560,
        "position": "rotary", "rotary_dim": 32, "block": "parallel", "tie_embeddings": False, "unembed_bias": True,
    },
    # Allal et al. 2025: Llama's shape, three query heads to one key and value head
    "smollm2-135m": {
        "d_vocab": 49_152, "n_ctx": 8192, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "d_model": 576, "d_mlp": 1536,
        "norm": "rmsnorm", "norm_bias": False, "position": "rotary", "rotary_base": 100_000.0,
        "act": "silu", "gated_mlp": True, "attn_bias": False, "mlp_bias": False,
    },
    # nanoGPT's baby GPT for a CPU; the characters of tiny Shakespeare
    "shakespeare-char": {
        "d_vocab": 65, "n_ctx": 64, "n_layers": 4, "n_heads": 4, "d_model": 128,
        "act": "gelu", "norm_bias": False, "attn_bias": False, "mlp_bias": False,
    },
    # a smaller one that knows positions by turning
    "shakespeare-fast": {
        "d_vocab": 65, "n_ctx": 64, "n_layers": 4, "n_heads": 3, "d_model": 96, "position": "rotary",
        "act": "gelu", "norm_bias": False, "attn_bias": False, "mlp_bias": False,
    },
    # the smallest models with skip-trigrams, and with induction heads (Elhage et al. 2021)
    "attn-only-1l": {**_ATTENTION_ONLY, "d_vocab": 4096, "n_ctx": 256, "n_layers": 1, "n_heads": 8, "d_model": 256},
    "attn-only-2l": {**_ATTENTION_ONLY, "d_vocab": 4096, "n_ctx": 256, "n_layers": 2, "n_heads": 8, "d_model": 256},
    # small enough for a laptop, but for its vocabulary: to learn from web pages
    "fineweb": {"d_vocab": 100_277, "n_ctx": 256, "n_layers": 4, "n_heads": 4, "d_model": 256},
}  # fmt: skip
