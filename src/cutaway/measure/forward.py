"""How long a forward pass takes beside its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cutaway.config import ModelConfig
from cutaway.measure.timing import seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["forward_seconds", "matrix_products", "matrix_shapes"]


def forward_seconds(
    config: ModelConfig, *, batch: int, n_pos: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Return the median time of a forward pass, and that of its matrix products, measured in turn."""
    model = Transformer(config, generator=seeded_generator(0)).to(device=device, dtype=dtype).eval()
    tokens = torch.randint(config.d_vocab, (batch, n_pos), generator=seeded_generator(0)).to(device)
    products = matrix_products(config, batch * n_pos, dtype=dtype, device=device)
    with torch.inference_mode():
        # reading one number of the result waits for a GPU
        times = seconds_in_turn({"forward": lambda: model(tokens)[0, 0, 0].item(), "products": products}, n_rounds=9, n_warmups=2)
    return times["forward"], times["products"]


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
        products = [F.linear(x, weight) for x, weight in pairs]
        return products[-1][0, 0].item()

    return multiply


def matrix_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """Return (d_in, d_out) of every linear layer of the model."""
    with torch.device("meta"):
        model = Transformer(config)
    return [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
