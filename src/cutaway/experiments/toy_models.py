"""Toy models of superposition: many sparse features in few hidden dimensions, many models trained side by side (Elhage et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = [
    "ToyModels",
    "anticorrelated_features",
    "best_replicas",
    "correlated_features",
    "feature_dimensionality",
    "sparse_features",
]


class ToyModels(nn.Module):
    """Models x' = ReLU(W^T W x + b), one an instance, that put features into fewer hidden dimensions and read them back.

    With an `activate` of its own, such as `torch.relu`, the hidden layer has neurons: x' = ReLU(W^T activate(W x) + b).
    """

    def __init__(
        self,
        n_instances: int,
        n_features: int,
        d_hidden: int,
        *,
        generator: torch.Generator,
        activate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        W = torch.randn(n_instances, n_features, d_hidden, generator=generator)
        self.W = nn.Parameter(W * (2 / (n_features + d_hidden)) ** 0.5)  # Xavier's
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        self.activate = activate

    def forward(self, x: Float[Tensor, "batch instance feature"]) -> Float[Tensor, "batch instance feature"]:
        """Return the features as they come back."""
        hidden = einsum(x, self.W, "batch instance feature, instance feature hidden -> batch instance hidden")
        if self.activate is not None:
            hidden = self.activate(hidden)
        back: Tensor = einsum(hidden, self.W, "batch instance hidden, instance feature hidden -> batch instance feature")
        return (back + self.b).relu()

    def losses(
        self, x: Float[Tensor, "batch instance feature"], importance: Float[Tensor, "*instance feature"]
    ) -> Float[Tensor, " instance"]:
        """Return each model's squared error, weighted by how important a feature is, as a mean over batch and features."""
        back: Tensor = self(x)
        return (importance * (x - back) ** 2).mean((0, 2))


def best_replicas(losses: Float[Tensor, " instance"], *, n_replicas: int) -> Int[Tensor, " group"]:
    """Return the place of the model with the least loss in each group of `n_replicas` that stand side by side."""
    best = losses.unflatten(0, (-1, n_replicas)).argmin(1)
    places: Tensor = torch.arange(len(best)) * n_replicas + best
    return places


def sparse_features(
    batch_size: int, p_active: Float[Tensor, "instance feature"], *, generator: torch.Generator
) -> Float[Tensor, "batch instance feature"]:
    """Return features that are each 0, or with their probability uniform between 0 and 1."""
    shape = (batch_size, *p_active.shape)
    value, chance = torch.rand(2, *shape, generator=generator)
    return torch.where(chance < p_active, value, 0.0)


def correlated_features(
    batch_size: int, p_active: Float[Tensor, "instance pair"], *, generator: torch.Generator
) -> Float[Tensor, "batch instance feature"]:
    """Return features of which two neighbours are there together or not at all, each at a size of its own."""
    is_there = torch.rand(batch_size, *p_active.shape, generator=generator) < p_active
    return _sized(torch.stack([is_there, is_there], dim=-1), generator)


def anticorrelated_features(
    batch_size: int, p_active: Float[Tensor, "instance pair"], *, generator: torch.Generator
) -> Float[Tensor, "batch instance feature"]:
    """Return features of which two neighbours are never there together; raises ValueError for a probability above 1/2."""
    if (most := p_active.max().item()) > 0.5:
        raise ValueError(f"p_active is {most:g}; of two features that are never there together each has at most 0.5")
    chance = torch.rand(batch_size, *p_active.shape, generator=generator)
    return _sized(torch.stack([chance < p_active, chance > 1 - p_active], dim=-1), generator)


def _sized(is_there: Tensor, generator: torch.Generator) -> Float[Tensor, "batch instance feature"]:
    """Return sizes between 0 and 1 for those features "batch instance pair 2" that are there, pair after pair."""
    is_there = is_there.flatten(-2)
    return torch.where(is_there, torch.rand(is_there.shape, generator=generator), 0.0)


def feature_dimensionality(W: Float[Tensor, "*instance feature hidden"]) -> Float[Tensor, "*instance feature"]:
    """Return the share of a dimension that each feature has: |W_i|^2 / sum_j (W_i/|W_i| . W_j)^2, 0 for a feature without a direction.

    Source: Elhage et al. 2022, section "The Geometry of Superposition".
    """
    norm: Tensor = W.norm(dim=-1)
    unit = W / norm.clamp_min(1e-12)[..., None]
    overlap: Tensor = einsum(unit, W, "... i hidden, ... j hidden -> ... i j") ** 2
    return norm**2 / overlap.sum(-1).clamp_min(1e-12)
