"""The matrix products of a forward pass, alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cutaway.config import ModelConfig
from cutaway.model import Transformer

__all__ = ["matrix_products", "matrix_shapes"]


def matrix_products(
    config: ModelConfig, n_tokens: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Callable[[], float]:
    """Return a function that does the matrix products of a forward pass over `n_tokens`, and nothing else.

    Attention's own products, of queries with keys and of patterns with values, are left out, as are norms, activations and sums.
    """
    pairs = [
        (torch.randn(n_tokens, d_in).to(device, dtype), torch.randn(d_out, d_in).to(device, dtype))
        for d_in, d_out in matrix_shapes(config)
    ]

    def multiply() -> float:
        for x, weight in pairs:  # one after the other, as a model does: what is kept costs time, too
            product = F.linear(x, weight)
        return product[0, 0].item()

    return multiply


def matrix_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Return (d_in, d_out) of every linear layer of the model."""
    with torch.device("meta"):
        model = Transformer(config)
    return [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
