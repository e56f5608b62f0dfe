"""Toy models of superposition: many sparse features in few hidden dimensions, many models trained side by side (Elhage et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from einops import einsum
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from cutaway.assets.shipped import shipped_toys
from cutaway.runtime import atomic_path, did_you_mean
from cutaway.weights import save_tensors

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

    With `hidden="relu"` the hidden layer has neurons: x' = ReLU(W^T ReLU(W x) + b).
    """

    def __init__(
        self,
        n_instances: int,
        n_features: int,
        d_hidden: int,
        *,
        generator: torch.Generator,
        hidden: Literal["linear", "relu"] = "linear",
    ) -> None:
        super().__init__()
        W = torch.randn(n_instances, n_features, d_hidden, generator=generator)
        self.W = nn.Parameter(W * (2 / (n_features + d_hidden)) ** 0.5)  # Xavier's
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        self.hidden = hidden

    def extra_repr(self) -> str:
        """Return what they are in words."""
        n_instances, n_features, d_hidden = self.W.shape
        return f"{n_instances} models of {n_features} features in {d_hidden} dimensions, hidden={self.hidden!r}"

    def forward(self, x: Float[Tensor, "batch instance feature"]) -> Float[Tensor, "batch instance feature"]:
        """Return the features as they come back."""
        h = einsum(x, self.W, "batch instance feature, instance feature hidden -> batch instance hidden")
        if self.hidden == "relu":
            h = h.relu()
        back: Tensor = einsum(h, self.W, "batch instance hidden, instance feature hidden -> batch instance feature")
        return (back + self.b).relu()

    def losses(
        self, x: Float[Tensor, "batch instance feature"], importance: Float[Tensor, "*instance feature"]
    ) -> Float[Tensor, " instance"]:
        """Return each model's squared error, weighted by how important a feature is, as a mean over batch and features."""
        back: Tensor = self(x)
        return (importance * (x - back) ** 2).mean((0, 2))

    def chosen(self, places: Int[Tensor, " chosen"]) -> Self:
        """Return the models at some places, as a copy."""
        n_features, d_hidden = self.W.shape[1:]
        chosen = type(self)(len(places), n_features, d_hidden, generator=torch.Generator(), hidden=self.hidden)
        with torch.no_grad():
            chosen.W.copy_(self.W[places])
            chosen.b.copy_(self.b[places])
        return chosen

    def save(self, folder: Path) -> None:
        """Write the weights, and whether there are neurons, as a folder that `load` opens, whole or not at all.

        Raises ValueError for a folder that is there already.
        """
        if folder.exists():
            raise ValueError(f"{folder} is there already: give a new folder")
        weights = {name: weight.detach().contiguous() for name, weight in self.named_parameters()}
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_tensors(weights, temporary / "model.safetensors", metadata={"hidden": self.hidden})

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Read toy models by the name under which they come with cutaway, or from a folder that they were saved in.

        Raises FileNotFoundError where there are none, ValueError for a folder of other models.

        >>> ToyModels.load("toy-geometry").W.shape
        torch.Size([8, 5, 2])
        """
        known = shipped_toys()
        file = known.get(str(source), Path(source)) / "model.safetensors"
        if not file.is_file():
            meant = did_you_mean(str(source), known)
            raise FileNotFoundError(
                f"there are no toy models {str(source)!r}, nor in a folder of that name; {meant}there are {', '.join(known)}"
            )
        with safe_open(file, framework="pt") as opened:
            hidden = (opened.metadata() or {}).get("hidden")
            if hidden not in ("linear", "relu") or set(opened.keys()) != {"W", "b"}:
                raise ValueError(f"{file} holds no toy models of superposition; cutaway.load opens language models")
            W, b = opened.get_tensor("W"), opened.get_tensor("b")
        models = cls(*W.shape, generator=torch.Generator(), hidden=hidden)
        with torch.no_grad():
            models.W.copy_(W)
            models.b.copy_(b)
        return models


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
