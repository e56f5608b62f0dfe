"""Prompts to patch between, their letters as tokens, and the choices of the models that read them."""

from typing import Any

from cutaway.tokenizers import CharTokenizer

ROUNDING = 1e-10
SIZES: dict[str, Any] = {"d_vocab": 27, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 16}
LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "position": "rotary",
    "act": "silu",
    "gated_mlp": True,
    "n_kv_heads": 2,
    "attn_bias": False,
}
PARALLEL: dict[str, Any] = {"position": "rotary", "rotary_dim": 2, "block": "parallel"}
TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
A, B, C, D = TOKENIZER.encode("abcd")
CLEAN, CORRUPTED, LONGER = "a cat on", "a dog in", "a horse on"
