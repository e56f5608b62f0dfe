"""Features that come together are kept at right angles by the best models, and features that never do in opposite directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.toy_models import (
    ToyModels,
    anticorrelated_features,
    best_replicas,
    correlated_features,
    sparse_features,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_FEATURES = 4  # two pairs, in two dimensions
_AT_RIGHT_ANGLES = 0.15  # |cosines| up to this
_OPPOSITE = -0.85  # cosines up to this


@dataclass(frozen=True, kw_only=True)
class Config:
    """How likely a feature is there, and how many models are trained for each probability and each kind of features."""

    p_correlated: tuple[float, ...] = (0.05, 0.03, 0.02, 0.01)
    p_anticorrelated: tuple[float, ...] = (0.3, 0.2, 0.15, 0.1)
    n_replicas: int = 8
    n_steps: int = 2500
    batch_size: int = 512

    def p_active(self) -> dict[str, tuple[float, ...]]:
        """Return how likely the features of each kind are; independent ones as those of either other kind."""
        return {
            "correlated": self.p_correlated,
            "anticorrelated": self.p_anticorrelated,
            "independent": self.p_correlated + self.p_anticorrelated,
        }


def run(config: Config, trial: Trial) -> Outcome:
    """Train models on pairs of either kind, and on features that know nothing of each other; look at the angles within pairs."""
    kinds = config.p_active()
    n_models = config.n_replicas * sum(map(len, kinds.values()))
    models = ToyModels(n_models, _N_FEATURES, 2, generator=trial.generator("weights"))
    untrained = models.W.detach().clone()

    def loss(step: int) -> Float[Tensor, ""]:
        x = _features(config, config.batch_size, trial.generator("batch", step))
        return models.losses(x, torch.ones(_N_FEATURES)).sum()

    recipe = Recipe(n_steps=config.n_steps, learning_rate=3e-3, n_decay_steps=config.n_steps // 2)
    trial.learn("toy models", models, loss, recipe)
    with torch.no_grad():
        losses = models.losses(_features(config, 16_384, trial.generator("evaluation")), torch.ones(_N_FEATURES))
    sizes = [len(p) for p in kinds.values()]
    W = models.W.detach()
    least = models.chosen(best_replicas(losses, n_replicas=config.n_replicas))
    trained = dict(zip(kinds, W.unflatten(0, (-1, config.n_replicas)).split(sizes), strict=True))
    best = dict(zip(kinds, least.W.detach().split(sizes), strict=True))
    return Outcome(
        checks=_checks(trained, best, untrained),
        numbers={
            f"{kind}: share of all models' pairs that are {name}": share
            for kind, W in trained.items()
            for name, share in _shares(W).items()
        },
        arrays=best | {f"p of {kind}": torch.tensor(p) for kind, p in kinds.items()},
        models={"toy-correlation": least},
    )


def _features(config: Config, batch_size: int, generator: torch.Generator) -> Float[Tensor, "batch instance feature"]:
    """Return features of all kinds for models in the order of kind, probability, replica."""
    draws = {"correlated": correlated_features, "anticorrelated": anticorrelated_features, "independent": sparse_features}
    parts = []
    for kind, p in config.p_active().items():
        width = _N_FEATURES if kind == "independent" else _N_FEATURES // 2
        p_each = torch.tensor(p).repeat_interleave(config.n_replicas)[:, None].expand(-1, width)
        parts.append(draws[kind](batch_size, p_each, generator=generator))
    return torch.cat(parts, dim=1)


def _cosines(W: Float[Tensor, "*instance 4 2"]) -> Float[Tensor, "*instance pair"]:
    """Return the cosine of the angle between the two features of each pair."""
    one, other = (W / W.norm(dim=-1, keepdim=True)).unflatten(-2, (-1, 2)).unbind(-2)
    cosines: Tensor = (one * other).sum(-1)
    return cosines


def _shares(W: Float[Tensor, "*instance 4 2"]) -> dict[str, float]:
    cosines = _cosines(W)
    kinds = {"at right angles": cosines.abs() <= _AT_RIGHT_ANGLES, "opposite": cosines <= _OPPOSITE}
    return {name: found.double().mean().item() for name, found in kinds.items()}


def _checks(trained: Mapping[str, Tensor], best: Mapping[str, Tensor], untrained: Tensor) -> tuple[Check, ...]:
    cosines = {kind: _cosines(W) for kind, W in best.items()}
    of_all = {kind: _cosines(trained[kind]).abs().mean().item() for kind in ("correlated", "independent")}
    return (
        Check(
            name="correlated pairs: largest |cosine| of the best models", at_most=_AT_RIGHT_ANGLES,
            value=cosines["correlated"].abs().max().item(), null=cosines["anticorrelated"].abs().max().item(),
            null_of="anticorrelated pairs",
        ),
        Check(
            name="correlated pairs: mean |cosine| of all models", at_most=_AT_RIGHT_ANGLES,
            value=of_all["correlated"], null=of_all["independent"], null_of="independent features",
        ),
        Check(
            name="anticorrelated pairs: largest cosine of the best models", at_most=_OPPOSITE,
            value=cosines["anticorrelated"].max().item(), null=cosines["independent"].max().item(),
            null_of="independent features",
        ),
        Check(
            name="pairs of the best models: shortest feature over the longest", at_least=0.9,
            value=min(_evenness(best[kind]) for kind in ("correlated", "anticorrelated")), null=_evenness(untrained),
            null_of="untrained",
        ),
    )  # fmt: skip


def _evenness(W: Float[Tensor, "*instance feature hidden"]) -> float:
    """Return the least norm of a feature over the greatest, of the model where they differ most."""
    norms: Tensor = W.norm(dim=-1)
    return (norms.amin(-1) / norms.amax(-1)).min().item()


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the features of the best model of each probability as arrows, pairs in neighbouring colours, and where pairs lie."""
    from cutaway.plots import arrows, bars

    arrays = outcome.arrays
    panels = {
        f"{kind}, p = {p:.2g}": W.numpy()
        for kind in ("correlated", "anticorrelated")
        for W, p in zip(arrays[kind], arrays[f"p of {kind}"].tolist(), strict=True)
    }
    shares = {
        name.replace("share of all models' pairs that are ", "")
        .replace("at right angles", "90°")
        .replace("opposite", "180°"): value
        for name, value in outcome.numbers.items()
    }
    return {
        "Directions of the pairs": arrows(panels, title="Two pairs in two dimensions: blue with orange, green with pink"),
        "Angles over all models": bars(
            torch.tensor(list(shares.values())).numpy(), labels=list(shares), title="How pairs lie in all models",
            label="share of pairs", signed=False,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="superposition-correlation",
    title="Superposition: features that come together, or never",
    claim=(
        "In the best of eight replicas two dimensions keep two pairs of features so: those that come together at right angles to each "
        "other, and those that never do in opposite directions."
    ),
    source="Elhage et al. 2022, Toy Models of Superposition",
    scales={
        "small": Scale(config=Config(), minutes=0.2),
        "reduced": Scale(config=Config(p_correlated=(0.03, 0.02), p_anticorrelated=(0.3, 0.2), n_steps=2000)),
    },
    run=run,
    draw=draw,
    captions={
        "Directions of the pairs": (
            "Four features in two dimensions, blue paired with orange and green with pink, in the best model of each probability p. "
            "Pairs that come together lie at right angles; pairs of which only one is ever there point in opposite directions."
        ),
        "Angles over all models": (
            "Over all models and not the best alone: how many pairs lie at right angles, and how many in opposite directions, "
            "beside features that come independently."
        ),
    },
)
