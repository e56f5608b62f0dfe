"""How few latents tell a property: k of them chosen, a logistic regression on those alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.probing.logistic import fit_logistic
from cutaway.interp.probing.task import Task, text_folds

__all__ = ["SparseProbe", "sparse_probes"]


@dataclass(frozen=True, eq=False)
class SparseProbe:
    """A logistic regression on k latents, chosen and fitted on all rows."""

    k: int
    features: tuple[int, ...]
    """The latents whose scaled means differ most between the classes, those with the largest difference first."""
    weights: tuple[float, ...]
    """Of the latents as they are."""
    bias: float
    accuracy: float
    """On texts held out, of probes chosen and fitted on the others, both classes counting alike: 0.5 is chance."""


def sparse_probes(
    latents: Float[Tensor, "row d_sae"],
    labels: Bool[Tensor, " row"],
    *,
    groups: Sequence[Hashable] | Tensor | None = None,
    ks: Sequence[int] = (1, 2, 5, 10),
    l2: float = 1e-3,
    n_folds: int = 5,
    seed: int = 0,
) -> list[SparseProbe]:
    """Return probes for a property on the k latents whose means differ most with it, tested on texts held out in turn.

    `groups` says which text each row is of, without it every row is a text of its own: rows of one text resemble each other, and no
    text is both learned and tested. Latents are divided by the root of their mean square first, for the choice too, and both classes
    count alike (`fit_logistic`). Raises ValueError for labels of one class, or of too few texts, and for k out of range.
    Source: Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing" (choice by mean difference).
    """
    if len(labels) != len(latents):
        raise ValueError(f"there are {len(labels)} labels for {len(latents)} rows: give one for each")
    if wrong := [k for k in ks if not 1 <= k <= latents.shape[1]]:
        raise ValueError(f"k is {wrong[0]}; expected 1 to {latents.shape[1]}, the number of latents")
    task = Task.of(labels, groups=groups)
    x, targets = latents.detach().to("cpu", torch.float64), task.targets
    said = torch.zeros(len(ks), len(x), dtype=torch.bool)
    folds = text_folds(task, n_folds, seed=seed)
    for fold in range(n_folds):
        is_out = folds == fold
        for number, (chosen, weights, bias) in enumerate(_fitted(x[~is_out], targets[~is_out], ks, l2)):
            said[number, is_out] = x[is_out][:, chosen] @ weights + bias > 0
    return [
        SparseProbe(k, tuple(chosen.tolist()), tuple(weights.tolist()), float(bias), _balanced(each, targets == 1))
        for k, each, (chosen, weights, bias) in zip(ks, said, _fitted(x, targets, ks, l2), strict=True)
    ]


def _fitted(
    x: Float[Tensor, "row d_sae"], targets: Int[Tensor, " row"], ks: Sequence[int], l2: float
) -> list[tuple[Int[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, ""]]]:
    """Return for each k the latents chosen, their weights and the bias."""
    scale = x.square().mean(0).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    scaled = x / scale
    difference = scaled[targets == 1].mean(0) - scaled[targets == 0].mean(0)
    order = difference.abs().argsort(descending=True, stable=True)
    found = []
    for k in ks:
        chosen = order[:k]
        W, b = fit_logistic(scaled[:, chosen], targets, 2, l2=l2, are_classes_alike=True)
        found.append((chosen, (W[1] - W[0]) / scale[chosen], b[1] - b[0]))
    return found


def _balanced(said: Bool[Tensor, " row"], labels: Bool[Tensor, " row"]) -> float:
    return 0.5 * (said[labels].double().mean() + (~said[~labels]).double().mean()).item()
