"""Five features in two dimensions: the sparser they are, the more of them are kept, in the end all five as a pentagon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.toy_models import ToyModels, best_replicas, sparse_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_GAP = 4.0  # degrees by which an angle between neighbours may be off
_SPREAD = 0.05  # of norms, around their mean


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many models of which features are trained; the published sweep of sparsities."""

    n_features: int = 5
    n_replicas: int = 8
    p_active: tuple[float, ...] = tuple(round(50 ** -(i / 7), 4) for i in range(8))
    importance_ratio: float = 0.9
    """How important a feature is beside the one before it."""
    n_steps: int = 4000
    batch_size: int = 1024


def run(config: Config, trial: Trial) -> Outcome:
    """Train every replica of every sparsity at once; judge the best replica of the dense end and of the sparse one."""
    n_replicas = config.n_replicas
    models = ToyModels(len(config.p_active) * n_replicas, config.n_features, 2, generator=trial.generator("weights"))
    untrained = models.W.detach()[-n_replicas:].clone()
    importance = config.importance_ratio ** torch.arange(config.n_features)
    p_active = torch.tensor(config.p_active).repeat_interleave(n_replicas)[:, None].expand(-1, config.n_features)

    def loss(step: int) -> Float[Tensor, ""]:
        x = sparse_features(config.batch_size, p_active, generator=trial.generator("batch", step))
        return models.losses(x, importance).sum()

    trial.learn("toy models", models, loss, Recipe(n_steps=config.n_steps, learning_rate=1e-3))
    x = sparse_features(16_384, p_active, generator=trial.generator("evaluation"))
    with torch.no_grad():
        chosen = models.chosen(best_replicas(models.losses(x, importance), n_replicas=n_replicas))
    best = chosen.W.detach()
    sparse = best[-1]
    at = f"p = {config.p_active[-1]:g}"
    nearest = f"the nearest of {n_replicas} untrained"
    pentagons = [_gap_deviation(W) <= _GAP and _spread(W.norm(dim=-1)) <= _SPREAD for W in models.W.detach()[-n_replicas:]]
    return Outcome(
        checks=(
            Check(
                name=f"largest deviation of the five gaps from 72 degrees, {at}", unit="°", at_most=_GAP,
                value=_gap_deviation(sparse), null=min(map(_gap_deviation, untrained)), null_of=nearest,
            ),
            Check(
                name=f"spread of the five norms over their mean, {at}", at_most=_SPREAD,
                value=_spread(sparse.norm(dim=-1)), null=min(map(_spread, untrained.norm(dim=-1))), null_of=nearest,
            ),
            Check(
                name=f"features kept (norm at least 1/2), p = {config.p_active[0]:g}", at_least=2, at_most=2,
                value=_n_kept(best[0]), null=_n_kept(sparse), null_of=at,
            ),
        ),
        numbers={f"features kept at p = {p:g}": _n_kept(W) for p, W in zip(config.p_active, best, strict=True)}
        | {f"share of all replicas at {at} that are such a pentagon": sum(pentagons) / n_replicas},
        arrays={"W": best, "p_active": torch.tensor(config.p_active)},
        models={"toy-geometry": chosen},
    )  # fmt: skip


def _gap_deviation(W: Float[Tensor, "feature 2"]) -> float:
    """Return how far the angle between neighbours is at most from that of equal parts, in degrees."""
    angles = torch.atan2(W[:, 1], W[:, 0]).sort().values
    gaps = torch.cat([angles.diff(), (angles[0] - angles[-1] + 2 * math.pi)[None]])
    return math.degrees((gaps - 2 * math.pi / len(W)).abs().max().item())


def _spread(norms: Float[Tensor, " feature"]) -> float:
    return ((norms.max() - norms.min()) / (2 * norms.mean())).item()


def _n_kept(W: Float[Tensor, "feature 2"]) -> float:
    return float((W.norm(dim=-1) >= 0.5).sum())


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the features of each sparsity as arrows."""
    from cutaway.plots import arrows

    pairs = zip(outcome.arrays["W"], outcome.arrays["p_active"].tolist(), strict=True)
    panels = {f"p = {p:.3g}": W.numpy() for W, p in pairs}
    return {
        "Features from dense to sparse": arrows(
            panels, title="Five features in two dimensions, each there with probability p, from dense to sparse"
        )
    }


EXPERIMENT = Experiment(
    id="superposition-geometry",
    title="Superposition: a pentagon of features",
    claim="Two dimensions keep two dense features; of sparse ones they keep five, as the corners of a regular pentagon.",
    source="Elhage et al. 2022, Toy Models of Superposition",
    scales={
        "small": Scale(config=Config(), minutes=0.4),
        "paper": Scale(config=Config(n_steps=10_000)),
        "reduced": Scale(config=Config(n_steps=1500, batch_size=512)),
    },
    run=run,
    draw=draw,
    captions={
        "Features from dense to sparse": (
            "Each panel is a model of five features in two dimensions, an arrow a feature, each there with probability p. Where all "
            "are always there (p = 1) two are kept at right angles; where they are rare all five are, as a regular pentagon."
        ),
    },
)
