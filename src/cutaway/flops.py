"""Operations, multiplications and additions alike: how many a model takes, and how many a device does in a second."""

from __future__ import annotations

import time

import torch

from cutaway.config import ModelConfig
from cutaway.runtime import seeded_generator

__all__ = ["layer_flops", "forward_flops", "training_flops", "product_flops_per_s"]

_ROUNDS = 2
"""The least: the first of a process loads what it needs."""
_ENOUGH_S = 0.1


def layer_flops(config: ModelConfig, n_new: int, n_keys: int, n_queries: int | None = None) -> tuple[float, float]:
    """Return the operations of one layer's attention and of its MLP for `n_new` positions that see `n_keys`.

    Matrix products alone, as everybody counts them; of attention all pairs of positions, whatever a mask leaves out.
    """
    n_queries = n_new if n_queries is None else n_queries
    d_attn, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    attention = 2 * config.d_model * (2 * d_attn * n_queries + 2 * d_kv * n_new) + 4 * d_attn * n_queries * n_keys
    mlp = 2 * config.d_model * config.d_mlp * (3 if config.gated_mlp else 2) * n_queries
    return attention, mlp


def forward_flops(config: ModelConfig, n_pos: int) -> float:
    """Return the operations of a whole forward pass of one row."""
    unembed = 2 * config.d_model * config.d_vocab_out * n_pos
    return config.n_layers * sum(layer_flops(config, n_pos, n_pos)) + unembed


def training_flops(config: ModelConfig, n_pos: int) -> float:
    """Return the operations of one row's forward and backward pass, in which each product has two more, for its two gradients.

    A kernel that computes the pattern once more does more than the model asks for, and that is not counted.
    """
    return 3 * forward_flops(config, n_pos)


def product_flops_per_s(
    dtype: torch.dtype, device: torch.device | str = "cpu", *, size: int | None = None, n_rounds: int = _ROUNDS
) -> float:
    """Return the most operations a second that products of square matrices reach, in a tenth of a second and `n_rounds` at least.

    On a CPU the matrices are 2,048 wide unless `size` is given; a GPU is not kept busy by so little, and takes 8,192.
    """
    device = torch.device(device)
    size = size or (2048 if device.type == "cpu" else 8192)
    # random, as a GPU that multiplies zeros takes less current and is faster
    left, right = torch.randn(2, size, size, generator=seeded_generator(0, device), device=device).to(dtype)
    times: list[float] = []
    while len(times) < n_rounds or sum(times) < _ENOUGH_S:
        started = time.perf_counter()
        left @ right
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)
