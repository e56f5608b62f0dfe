"""Muon: momentum whose matrices are made orthogonal before they move the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalize"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of X, X X^T X and (X X^T)^2 X: steep at 0, so that few rounds lift small singular values (Jordan et al. 2024)."""
_N_ROUNDS = 5
_ADAMW_RMS = 0.2
"""The root mean square of a move of AdamW's beside its rate (Liu et al. 2025)."""


def orthogonalize(
    matrices: Float[Tensor, "matrix row column"], *, dtype: torch.dtype | None = None
) -> Float[Tensor, "matrix row column"]:
    """Return each matrix with all its singular values near 1, between about 0.7 and 1.2, and its singular vectors kept.

    Five rounds of a Newton-Schulz iteration, all matrices at once, with products in `dtype`, their own unless given; a value below a
    thousandth of a matrix's norm may stay smaller. Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    x = x.to(dtype or x.dtype)
    if is_tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    a, b, c = _COEFFICIENTS
    for _ in range(_N_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    turned: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return turned


class Muon(torch.optim.Optimizer):
    """Moves matrices by `lr` times an orthogonal matrix: of the mean of gradients, a step further (Nesterov), whatever its length.

    A move is as long as AdamW's would be, so that one rate and one weight decay do for both (Liu et al. 2025). Equal
    shapes are turned together, which on small matrices takes half the time of `torch.optim.Muon`, whose moves these are.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients, then step")
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for weights in alike.values():
                directions = torch.stack([self._direction(weight, group["momentum"]) for weight in weights])
                length = group["lr"] * _ADAMW_RMS * max(weights[0].shape) ** 0.5
                for weight, move in zip(weights, orthogonalize(directions, dtype=self._dtype), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(move, alpha=-length)

    def _direction(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """Take a gradient into its mean, and return the mean as the next gradient like it would make it."""
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean: Tensor = state["momentum_buffer"]
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)
