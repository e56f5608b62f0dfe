"""Small float64 models of every variant that an edit or a sweep must treat apart."""

from __future__ import annotations

from typing import Any

import torch

from cutaway import ModelConfig, Transformer

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "rotary, grouped, gated": {"position": "rotary", "norm": "rmsnorm", "gated_mlp": True, "act": "silu", "n_kv_heads": 2},
    "parallel": {"position": "rotary", "rotary_dim": 4, "block": "parallel", "tie_embeddings": False, "unembed_bias": True},
    "attention only": {"position": "attention_only", "d_mlp": 0},
    "no norm": {"norm": "none", "position": "none"},
    "bidirectional": {"is_causal": False},
}

EXACT = {"atol": 1e-12, "rtol": 0}
"""How near two runs of these models are that compute the same."""


def small_model(variant: str = "gpt2", *, seed: int = 0, **changes: Any) -> Transformer:
    """Return a model of three layers with weights large enough for edits to matter."""
    shape: dict[str, Any] = {"d_vocab": 50, "n_ctx": 16, "n_layers": 3, "n_heads": 4, "d_model": 32}
    config = ModelConfig(**{**shape, **VARIANTS[variant], **changes})
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator=generator).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def two_runs(n_rows: int = 2, n_pos: int = 9, *, differ_at: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of two runs that differ at one position."""
    tokens = torch.randint(0, 50, (n_rows, n_pos), generator=torch.Generator().manual_seed(seed))
    other = tokens.clone()
    other[:, differ_at] = (other[:, differ_at] + 1) % 50
    return tokens, other


def with_small_weights(model: Transformer) -> Transformer:
    """Return a model with weights so small, but for its norms', that few points make an integral along a line."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not (".ln" in name and name.endswith("weight")):
                weight *= 0.5
    return model
