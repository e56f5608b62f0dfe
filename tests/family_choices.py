"""Choices of tiny models that the tables of families are tried on."""

from typing import Any

TINY: dict[str, Any] = {"d_vocab": 31, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 16}
LLAMA: dict[str, Any] = {
    "norm": "rmsnorm", "norm_bias": False, "position": "rotary", "act": "silu", "gated_mlp": True, "attn_bias": False,
    "mlp_bias": False,
}  # fmt: skip
PHI: dict[str, Any] = {"position": "rotary", "block": "parallel", "unembed_bias": True}
