"""What a model takes, from its shape alone: parameters, and bytes of weights, caches, training and activations."""

from __future__ import annotations

import torch

from cutaway.config import ModelConfig
from cutaway.weights import parameter_shapes

__all__ = [
    "n_parameters",
    "attention_flops",
    "kv_bytes_a_token",
    "train_state_bytes",
    "is_like_gpt2",
    "forward_peak_bytes",
    "step_peak_bytes",
]


def n_parameters(config: ModelConfig) -> int:
    """Return how many numbers the model learns, found on torch's meta device; a tied unembedding counts once."""
    return sum(shape.numel() for shape in parameter_shapes(config).values())


def attention_flops(config: ModelConfig, n_pos: int) -> float:
    """Return how many of a forward pass's operations multiply queries with keys and patterns with values: what grows as a square."""
    return 4.0 * config.n_layers * config.n_heads * config.d_head * n_pos**2


def kv_bytes_a_token(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of the keys and values that a cache keeps of each token."""
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * dtype.itemsize


def train_state_bytes(config: ModelConfig) -> int:
    """Return the bytes of weights, gradients and AdamW's two averages, all of them in float32."""
    return 4 * torch.float32.itemsize * n_parameters(config)


def is_like_gpt2(config: ModelConfig) -> bool:
    """Return whether a shape is GPT-2's but for sizes, biases and activation."""
    gpt2 = ModelConfig.preset("gpt2")
    free = {"d_vocab", "d_vocab_out", "n_ctx", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_model", "d_mlp"}
    free |= {"norm_bias", "attn_bias", "mlp_bias", "act", "dropout", "norm_eps", "rotary_base"}
    is_same = all(value == getattr(gpt2, name) for name, value in config.to_dict().items() if name not in free)
    d_attn = config.n_heads * config.d_head
    return is_same and config.n_kv_heads == config.n_heads and d_attn == config.d_model and config.d_mlp == 4 * config.d_model


def forward_peak_bytes(config: ModelConfig, n_pos: int, dtype: torch.dtype = torch.float32) -> int:
    """Return the most bytes of activations that one row's forward pass of a shape like GPT-2's holds at once, keeping none.

    That is at its end: the stream, its norm and the logits; with a small vocabulary in an MLP: its hidden layer before and after the
    activation, what it writes, and what the block still holds. Linear in the length, as fused attention never holds a pattern.
    """
    at_logits = 2 * config.d_model + config.d_vocab_out
    in_mlp = (6 + (config.n_layers > 1)) * config.d_model + 2 * config.d_mlp
    return n_pos * (max(at_logits, in_mlp) * dtype.itemsize + torch.int64.itemsize)  # and the positions


def step_peak_bytes(config: ModelConfig, n_pos: int) -> int:
    """Return the most bytes that one row's forward and backward pass of a shape like GPT-2's, in float32, holds beside the weights.

    Long rows: when the backward pass begins, all that it needs of the activations and two gradients of logits, or with a small
    vocabulary in the last MLP, gradients as wide as the stream and of its matrix. Short ones: at its end, all gradients, those of the
    tied embedding from both of its places, and their sum.
    """
    d_model, n_norms = config.d_model, 2 * config.n_layers + 1
    in_layer = 4 * d_model + 4 * config.n_heads * config.d_head + 2 * config.d_mlp + config.n_heads  # the last: each head's norm
    kept = config.n_layers * in_layer + 2 * d_model + 2 * n_norms + config.d_vocab_out
    at_start = n_pos * (kept + 2 * config.d_vocab_out)
    in_mlp = n_pos * (kept - config.d_vocab_out + 3 * d_model) + (config.d_mlp + config.d_vocab) * d_model
    at_end = n_parameters(config) + 2 * config.d_vocab * d_model
    return max(at_start, in_mlp, at_end) * torch.float32.itemsize + n_pos * torch.int64.itemsize  # and the positions
