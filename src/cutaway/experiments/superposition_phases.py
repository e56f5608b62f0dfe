"""Two features and one dimension: what becomes of the second one, by how important and how sparse it is, has three phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.toy_models import ToyModels, best_replicas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "PHASES", "Config", "handmade_losses", "run", "draw"]

PHASES = ("not learned", "a dimension of its own", "superposition")
"""What may become of the second feature, in the order in which they are numbered; 3 is none of them."""
_KEPT_FROM = 0.5  # the weight of a feature that is kept
_N_FINE = 64  # sizes of a feature at which a loss is judged


@dataclass(frozen=True, kw_only=True)
class Config:
    """How sparse both features are, and how important the second is beside the first."""

    p_active: tuple[float, ...] = tuple(round(10 ** (-1.5 * i / 8), 4) for i in range(9))
    importance_ratios: tuple[float, ...] = tuple(round(10 ** (2 * i / 9 - 1), 4) for i in range(10))
    n_replicas: int = 12
    n_steps: int = 1500
    n_sizes: int = 10
    """How many sizes of a feature stand for all between 0 and 1."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train models for each cell on the expected loss itself, and hold their phases against the best of three made by hand."""
    ratio, p = torch.cartesian_prod(torch.tensor(config.importance_ratios), torch.tensor(config.p_active)).unbind(1)
    models = ToyModels(len(p) * config.n_replicas, 2, 1, generator=trial.generator("weights"))
    of_models = ratio.repeat_interleave(config.n_replicas), p.repeat_interleave(config.n_replicas)

    def loss(_: int) -> Float[Tensor, ""]:
        return _expected_losses(models, *of_models, n_sizes=config.n_sizes).sum()

    at_first = _judged(models, of_models)
    trial.learn("toy models", models, loss, Recipe(n_steps=config.n_steps, learning_rate=1e-2, n_decay_steps=config.n_steps // 2))
    losses = _judged(models, of_models)
    W = models.W.detach()[best_replicas(losses, n_replicas=config.n_replicas), :, 0]
    by_hand = handmade_losses(ratio, p)
    found, expected = _phases(W), by_hand.argmin(0)
    over, over_at_first = (_at_worst(each, by_hand, config.n_replicas) for each in (losses, at_first))
    return Outcome(
        checks=(
            *_checks(found, expected),
            Check(
                name="loss over that of the best model made by hand, in the worst cell", at_most=1.01,
                value=over, null=over_at_first, null_of="untrained",
            ),
        ),
        numbers={f"share of cells: {name}": (found == number).double().mean().item() for number, name in enumerate(PHASES)}
        | {"share of cells in none of the three phases": (found == len(PHASES)).double().mean().item()},
        arrays={
            name: phases.unflatten(0, (len(config.importance_ratios), -1))
            for name, phases in (("found", found), ("expected", expected))
        }
        | {"p_active": torch.tensor(config.p_active), "ratios": torch.tensor(config.importance_ratios)},
    )  # fmt: skip


@torch.no_grad()
def _judged(models: ToyModels, of_models: tuple[Tensor, Tensor]) -> Float[Tensor, " instance"]:
    return _expected_losses(models, *of_models, n_sizes=_N_FINE)


def _at_worst(losses: Float[Tensor, " instance"], by_hand: Float[Tensor, "phase cell"], n_replicas: int) -> float:
    """Return the loss of a cell's best replica over the least one by hand, of the cell where it is greatest."""
    return float((losses.unflatten(0, (-1, n_replicas)).amin(1) / by_hand.amin(0)).max())


def _expected_losses(
    models: ToyModels, ratio: Float[Tensor, " instance"], p_active: Float[Tensor, " instance"], *, n_sizes: int
) -> Float[Tensor, " instance"]:
    """Return the squared error of both features, the second weighted by its importance, over all that features may be.

    A feature is 0, or with its probability of one of so many sizes evenly spread between 0 and 1.
    """
    sizes = torch.cat([torch.zeros(1), (torch.arange(n_sizes) + 0.5) / n_sizes])
    x = torch.cartesian_prod(sizes, sizes)  # point feature
    chance = torch.where(x[:, None] > 0, p_active[:, None] / n_sizes, 1 - p_active[:, None]).prod(-1)  # point instance
    error = (x[:, None] - models(x[:, None].expand(-1, len(ratio), -1))) ** 2
    losses: Tensor = (chance * (error[..., 0] + ratio * error[..., 1])).sum(0)
    return losses


def handmade_losses(ratio: Float[Tensor, " cell"], p_active: Float[Tensor, " cell"]) -> Float[Tensor, "phase cell"]:
    """Return the loss of the best model of each phase that one would write down, by integrals.

    W = (1, 0) and (0, 1) give one feature back and guess the other's mean, which leaves its variance p/3 - p^2/4. W = (1, -1) gives
    either back that is there alone, and of both together only their difference, which leaves the smaller one's mean square, 1/6.
    """
    variance = p_active / 3 - p_active**2 / 4
    return torch.stack([ratio * variance, variance, (1 + ratio) * p_active**2 / 6])


def _phases(W: Float[Tensor, "cell 2"]) -> Int[Tensor, " cell"]:
    """Return the number of each model's phase, by which features it keeps."""
    first, second = (W.abs() >= _KEPT_FROM).unbind(-1)
    phases = torch.full(W.shape[:-1], len(PHASES))
    phases[first & ~second] = 0
    phases[second & ~first] = 1
    phases[first & second & (W.prod(-1) < 0)] = 2
    return phases


def _checks(found: Int[Tensor, " cell"], expected: Int[Tensor, " cell"]) -> Iterator[Check]:
    commonest = expected.bincount().max().item() / len(expected)
    agrees = (found == expected).double()
    yield Check(
        name="share of cells in the phase that has the least loss in closed form", at_least=0.9,
        value=agrees.mean().item(), null=commonest, null_of="commonest phase everywhere",
    )  # fmt: skip
    for number, name in enumerate(PHASES):
        yield Check(
            name=f"share of cells in the phase '{name}', where it has the least loss in closed form", at_least=0.85,
            value=agrees[expected == number].mean().item(), null=(found == number).double().mean().item(),
            null_of="cells shuffled",
        )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw which phase each cell is in, and which it should be in."""
    from cutaway.plots import categories

    arrays = outcome.arrays
    titles = {"found": "What becomes of the second feature", "expected": "What should become of it, by losses in closed form"}
    return {
        f"Phases {key}": categories(
            arrays[key].numpy(), names=[*PHASES, "none of these"], rows=[f"{ratio:.2g}" for ratio in arrays["ratios"].tolist()],
            columns=[f"{p:.2g}" for p in arrays["p_active"].tolist()], title=title,
            row_title="importance over the first one's", column_title="p, from dense to sparse",
        )
        for key, title in titles.items()
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="superposition-phases",
    title="Superposition: three phases of a feature",
    claim=(
        "A second feature that shares one dimension with a first is not learned, takes the dimension, or is put opposite to the first, "
        "and which of these is decided by sparsity and importance as the losses of models made by hand say."
    ),
    source="Elhage et al. 2022, Toy Models of Superposition",
    scales={
        "small": Scale(config=Config(), minutes=0.1),
        "reduced": Scale(
            config=Config(
                p_active=(1.0, 0.7, 0.5, 0.2, 0.1, 0.05),
                importance_ratios=(0.1, 0.2, 0.5, 2.0, 5.0, 10.0), n_steps=800, n_sizes=8,
            ),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Phases found": (
            "What training makes of the second feature, by how often features are there (from left to right ever more rarely) and "
            "by how important the second is: not learned, given the dimension for itself, or in superposition, opposite to the "
            "first."
        ),
        "Phases expected": (
            "The phase with the least loss in closed form, for models made by hand. Both pictures agree but for cells along the "
            "borders."
        ),
    },
)  # fmt: skip
