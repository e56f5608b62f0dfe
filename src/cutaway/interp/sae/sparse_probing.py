"""How few latents tell a property: k of them chosen, a logistic regression on those alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.runtime import seeded_generator

__all__ = ["SparseProbe", "sparse_probes", "fit_logistic"]

_TEST_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class SparseProbe:
    """A logistic regression on k latents."""

    k: int
    features: tuple[int, ...]
    """The latents whose means differ most between the classes, those with the largest difference first."""
    weights: tuple[float, ...]
    bias: float
    accuracy: float
    """On rows held out, both classes counting alike: 0.5 is chance."""


def sparse_probes(
    latents: Float[Tensor, "row d_sae"],
    labels: Bool[Tensor, " row"],
    *,
    ks: Sequence[int] = (1, 2, 5, 10),
    ridge: float = 1e-3,
    seed: int = 0,
) -> list[SparseProbe]:
    """Return probes for a property on the k latents whose means differ most with it, each tested on three tenths of the rows.

    Latents are divided by the root of their mean square first. Raises ValueError for labels of one class, and for k out of range.
    Source: Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing" (choice by mean difference).
    """
    if len(labels) != len(latents):
        raise ValueError(f"there are {len(labels)} labels for {len(latents)} rows: give one for each")
    if wrong := [k for k in ks if not 1 <= k <= latents.shape[1]]:
        raise ValueError(f"k is {wrong[0]}; expected 1 to {latents.shape[1]}, the number of latents")
    generator = seeded_generator(seed)
    learned, tested = _split(labels.cpu(), generator)
    x, y = latents.double()[learned], labels[learned]
    difference = x[y].mean(0) - x[~y].mean(0)
    order = difference.abs().argsort(descending=True, stable=True)
    probes = []
    for k in ks:
        chosen = order[:k]
        scale = x[:, chosen].square().mean(0).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        weights, bias = fit_logistic(x[:, chosen] / scale, y, ridge=ridge)
        said = latents.double()[tested][:, chosen] / scale @ weights + bias > 0
        probes.append(
            SparseProbe(k, tuple(chosen.tolist()), tuple((weights / scale).tolist()), float(bias), _balanced(said, labels[tested]))
        )
    return probes


def _split(labels: Bool[Tensor, " row"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows to learn from and rows to test on, both with the classes in the same shares."""
    learned, tested = [], []
    for is_class in (labels, ~labels):
        rows = is_class.nonzero()[:, 0]
        n_tested = max(1, round(_TEST_SHARE * len(rows)))
        if len(rows) <= n_tested:
            raise ValueError(f"{len(rows)} of {len(labels)} rows are of one class: give at least two of each")
        rows = rows[torch.randperm(len(rows), generator=generator)]
        tested.append(rows[:n_tested])
        learned.append(rows[n_tested:])
    return torch.cat(learned), torch.cat(tested)


def fit_logistic(
    x: Float[Tensor, "row k"], y: Bool[Tensor, " row"], *, ridge: float
) -> tuple[Float[Tensor, " k"], Float[Tensor, ""]]:
    """Return the weights and the bias of a logistic regression in which both classes count alike, by Newton's method.

    The loss is the mean of the two classes' mean log-losses and `ridge / 2` times the weights' squares.
    """
    ones = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    target = y.to(x.dtype)
    counts = torch.where(y, 0.5 / target.mean(), 0.5 / (1 - target).mean()) / len(x)
    penalty = ridge * torch.eye(ones.shape[1], dtype=x.dtype, device=x.device)
    penalty[-1, -1] = 1e-9  # the bias is free; a little keeps the matrix invertible
    w = ones.new_zeros(ones.shape[1])
    for _ in range(50):
        p = (ones @ w).sigmoid()
        gradient = ones.T @ (counts * (p - target)) + penalty @ w
        curvature = ones.T @ (ones * (counts * p * (1 - p))[:, None]) + penalty
        step = torch.linalg.solve(curvature, gradient)
        w = w - step / max(1.0, float(step.abs().max()) / 5)
        if float(step.abs().max()) < 1e-8:
            break
    return w[:-1], w[-1]


def _balanced(said: Bool[Tensor, " row"], labels: Bool[Tensor, " row"]) -> float:
    return 0.5 * (said[labels].double().mean() + (~said[~labels]).double().mean()).item()
