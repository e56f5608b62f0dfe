"""How much of a dimension a feature has: of those that are kept whole about every second one has half, as one of a pair has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.toy_models import ToyModels, feature_dimensionality, sparse_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "FRACTIONS", "Config", "run", "draw"]

FRACTIONS: Mapping[str, float] = {
    "alone: 1": 1.0,
    "tetrahedron: 3/4": 3 / 4,
    "triangle: 2/3": 2 / 3,
    "pair: 1/2": 1 / 2,
    "pentagon: 2/5": 2 / 5,
    "antiprism: 3/8": 3 / 8,
}
"""The published fractions: what a corner of each shape has of the dimensions that the shape lies in."""
_KEPT_FROM = 0.9  # the norm of a feature that is kept whole; between 0 and 1 it is on its way
_NEAR = 0.01  # of a fraction
_ON_PLATEAU = 0.02  # of one half: a geometric fall over as many sparsities has two models there at most
_N_DRAWS = 200  # of directions


@dataclass(frozen=True, kw_only=True)
class Config:
    """The models, which differ in how sparse their features are alone; all features are equally important."""

    n_features: int = 30
    d_hidden: int = 6
    p_active: tuple[float, ...] = tuple(round(0.15 ** (i / 23), 4) for i in range(24))
    n_steps: int = 3000
    batch_size: int = 512
    learning_rate: float = 3e-3


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model for each sparsity, and ask of each feature how much of a dimension it has."""
    p_active = torch.tensor(config.p_active)
    models = ToyModels(len(p_active), config.n_features, config.d_hidden, generator=trial.generator("weights"))
    untrained = models.W.detach().clone()
    importance, p_each = torch.ones(config.n_features), p_active[:, None].expand(-1, config.n_features)

    def loss(step: int) -> Float[Tensor, ""]:
        x = sparse_features(config.batch_size, p_each, generator=trial.generator("batch", step))
        return models.losses(x, importance).sum()

    recipe = Recipe(n_steps=config.n_steps, learning_rate=config.learning_rate, n_decay_steps=config.n_steps // 2)
    trial.learn("toy models", models, loss, recipe)
    W = models.W.detach()
    per_feature = _dimensions_per_feature(W)
    random = _random_directions(W, trial.generator("null"))
    is_kept, others = _is_kept(W), [fraction for fraction in FRACTIONS.values() if fraction != 0.5]
    return Outcome(
        checks=tuple(_checks(W, untrained, random)),
        numbers={
            "features kept whole, over all sparsities": is_kept.sum().item(),
            "of these, share within 0.01 of a published fraction but 1/2": _share_near(W, others, is_kept),
            "the same, random and as long": _share_near(random, others, is_kept.expand(_N_DRAWS, -1, -1)),
            **{f"of these within 0.01 of {name}": float(n) for name, n in _counts_near(feature_dimensionality(W)[is_kept]).items()},
            **{
                f"untrained, of {untrained[..., 0].numel()} features within 0.01 of {name}": float(n)
                for name, n in _counts_near(feature_dimensionality(untrained)).items()
            },
            **{f"dimensions a feature at p = {p:g}": each.item() for p, each in zip(config.p_active, per_feature, strict=True)},
        },
        arrays={
            "W": W, "untrained": untrained, "p_active": p_active,
            "dimensionality": feature_dimensionality(W), "dimensions per feature": per_feature,
        },
        models={"toy-dimensionality": models},
    )  # fmt: skip


def _checks(W: Float[Tensor, "instance feature hidden"], untrained: Tensor, random: Tensor) -> Iterator[Check]:
    per_feature = _dimensions_per_feature(W)
    yield Check(
        name="sum of features' dimensionalities: furthest from the number of dimensions", unit=" %", at_most=2.0,
        value=_sums_off(W).max().item(), null=_sums_off(untrained).min().item(), null_of="untrained, at its nearest",
    )  # fmt: skip
    is_kept = _is_kept(W)
    yield Check(
        name="features kept whole: share within 0.01 of half a dimension", at_least=0.4,
        value=_share_near(W, [0.5], is_kept),
        null=max(_share_near(untrained, [0.5]), _share_near(random, [0.5], is_kept.expand(_N_DRAWS, -1, -1))),
        null_of="untrained, or random and as long: the greater",
    )  # fmt: skip
    yield Check(
        name="features kept whole: share within 0.01 of any published fraction", at_least=0.5,
        value=_share_near(W, FRACTIONS.values(), is_kept),
        null=max(_share_near(untrained, FRACTIONS.values()), _share_near(random, FRACTIONS.values(), is_kept.expand(_N_DRAWS, -1, -1))),
        null_of="untrained, or random and as long: the greater",
    )  # fmt: skip
    yield Check(
        name="sparsities in a row with 0.48 to 0.52 dimensions a feature", at_least=4,
        value=_longest_plateau(per_feature), null=max(_longest_plateau(fall(per_feature)) for fall in (_even_fall, _geometric_fall)),
        null_of="an even or a geometric fall: the greater",
    )  # fmt: skip


def _dimensions_per_feature(W: Float[Tensor, "instance feature hidden"]) -> Float[Tensor, " instance"]:
    """Return the hidden dimensions over |W|^2, which is how many features there are where each has length 1."""
    return W.shape[-1] / W.square().sum((-2, -1))


def _is_kept(W: Float[Tensor, "instance feature hidden"]) -> Bool[Tensor, "instance feature"]:
    norms: Tensor = W.norm(dim=-1)
    return norms >= _KEPT_FROM


def _sums_off(W: Float[Tensor, "instance feature hidden"]) -> Float[Tensor, " instance"]:
    """Return how far the sum of dimensionalities is from the dimensions that there are, in per cent of these."""
    return 100 * (feature_dimensionality(W).sum(-1) / W.shape[-1] - 1).abs()


def _random_directions(
    W: Float[Tensor, "instance feature hidden"], generator: torch.Generator
) -> Float[Tensor, "draw instance feature hidden"]:
    """Return features as long as these that lie anywhere."""
    draws = torch.randn(_N_DRAWS, *W.shape, generator=generator)
    as_long: Tensor = draws * (W.norm(dim=-1) / draws.norm(dim=-1))[..., None]
    return as_long


def _counts_near(dimensionality: Float[Tensor, "..."]) -> dict[str, int]:
    """Return how many features are near to each published fraction."""
    return {name: int(((dimensionality - fraction).abs() <= _NEAR).sum()) for name, fraction in FRACTIONS.items()}


def _share_near(
    W: Float[Tensor, "*instance feature hidden"],
    fractions: Iterable[float],
    is_counted: Bool[Tensor, "*instance feature"] | None = None,
) -> float:
    """Return how many of the features that are counted, all unless given, are near to one of some fractions, as a share."""
    dimensionality = feature_dimensionality(W)
    counted = dimensionality if is_counted is None else dimensionality[is_counted]
    off = (counted[..., None] - torch.tensor(list(fractions))).abs()
    return (off <= _NEAR).any(-1).double().mean().item()


def _longest_plateau(per_feature: Float[Tensor, " instance"]) -> float:
    """Return how many neighbours at most are all near to one half."""
    runs = groupby(((per_feature - 0.5).abs() <= _ON_PLATEAU).tolist())
    return float(max((len(list(run)) for is_near, run in runs if is_near), default=0))


def _even_fall(per_feature: Float[Tensor, " instance"]) -> Float[Tensor, " instance"]:
    """Return what lies on the line between the first and the last."""
    return torch.linspace(per_feature[0].item(), per_feature[-1].item(), len(per_feature))


def _geometric_fall(per_feature: Float[Tensor, " instance"]) -> Float[Tensor, " instance"]:
    """Return what lies between the first and the last where each is the same part of the one before."""
    return _even_fall(per_feature.log()).exp()


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the dimensionality of each feature that is kept, and the staircase of dimensions a feature."""
    from cutaway.plots import lines, scatter

    arrays = outcome.arrays
    sparsity = -arrays["p_active"].log2()
    shown = {"untrained": (arrays["untrained"], False), "trained, kept whole": (arrays["W"], True)}
    series = {}
    for name, (W, is_kept) in shown.items():
        chosen = _is_kept(W) if is_kept else torch.ones_like(W[..., 0], dtype=torch.bool)
        x = sparsity[:, None].expand(-1, W.shape[1])[chosen]
        series[name] = (x.tolist(), feature_dimensionality(W)[chosen].tolist())
    per_feature = arrays["dimensions per feature"]
    curves = {
        "trained": per_feature, "an even fall": _even_fall(per_feature), "a geometric fall": _geometric_fall(per_feature),
    }  # fmt: skip
    x_label = "sparsity: halvings of p from 1"
    return {
        "What part of a dimension each feature has": scatter(
            series, title="Features' dimensionality", x_label=x_label, y_label="dimensions of a feature",
            levels=FRACTIONS,
        ),
        "Dimensions per feature by sparsity": lines(
            {name: (sparsity.tolist(), values.tolist()) for name, values in curves.items()},
            title="Half a dimension a feature, over a range of sparsities", x_label=x_label, y_label="dimensions a feature",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="superposition-dimensionality",
    title="Superposition: fractions of a dimension",
    claim=(
        "Features share out the dimensions that there are. Of those that are kept whole, over all sparsities, at least half have one "
        "of the published fractions of a dimension, chiefly 1/2, as random directions do not; over a range of sparsities models have "
        "half a dimension a feature."
    ),
    source="Elhage et al. 2022, Toy Models of Superposition",
    scales={
        "small": Scale(config=Config(), minutes=0.4),
        "paper": Scale(
            config=Config(
                n_features=400, d_hidden=30, p_active=tuple(round(0.05 ** (i / 23), 4) for i in range(24)), n_steps=10_000,
                batch_size=1024, learning_rate=1e-3,
            ),
            memory_gib=3.0,
        ),
        "reduced": Scale(
            config=Config(n_features=20, d_hidden=4, n_steps=1500, batch_size=256),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "What part of a dimension each feature has": (
            "A point is a feature. Sparser features stand further right, and of those that are kept whole many gather on one line: "
            "1/2 is what one of a pair has that shares a dimension. The other lines are what corners of other regular figures have. "
            "Before training points are spread."
        ),
        "Dimensions per feature by sparsity": (
            "The number of dimensions over that of features that fit in. It falls neither evenly nor by one "
            "factor: for a range of sparsities it stays about 1/2."
        ),
    },
)  # fmt: skip
