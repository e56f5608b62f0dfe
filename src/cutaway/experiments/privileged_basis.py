"""A ReLU makes the axes of a hidden layer special: dense features each take a neuron, sparse ones share neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.toy_models import ToyModels, best_replicas, sparse_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_KINDS: Mapping[str, Literal["relu", "linear"]] = {"neurons": "relu", "linear": "linear"}
_LABELS = {"neurons": "ReLU", "linear": "linear"}
_KEPT_FROM = 0.5  # the norm of a feature that is kept
_MONOSEMANTIC_FROM = 0.9  # the share of a neuron's squared weights that its first feature has
_N_ROTATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    """The models, with a ReLU in the hidden layer and without, which see the same features."""

    n_features: int = 10
    d_hidden: int = 5
    p_active: tuple[float, ...] = (0.5, 0.2, 0.1)
    """How likely a feature is there; the first counts as dense."""
    importance_ratio: float = 0.75
    """How important a feature is beside the one before it."""
    n_replicas: int = 8
    n_steps: int = 2500
    batch_size: int = 512


class _Trained(NamedTuple):
    """Of each sparsity the replica with the least loss, and how its loss changes when its hidden layer is turned."""

    models: ToyModels
    turned: Float[Tensor, " sparsity"]
    """The loss with a hidden layer in other axes over the loss, the mean of several rotations."""

    @property
    def W(self) -> Float[Tensor, "sparsity feature hidden"]:
        """The weights of the replicas."""
        return self.models.W.detach()


def run(config: Config, trial: Trial) -> Outcome:
    """Train models of both kinds; ask whether features lie along the axes of the hidden layer, and whether axes matter."""
    n_models = len(config.p_active) * config.n_replicas
    shape = (n_models, config.n_features, config.d_hidden)
    models = {kind: ToyModels(*shape, generator=trial.generator("weights", kind), hidden=hidden) for kind, hidden in _KINDS.items()}
    importance = config.importance_ratio ** torch.arange(config.n_features)
    p_each = torch.tensor(config.p_active).repeat_interleave(config.n_replicas)[:, None].expand(-1, config.n_features)

    def loss(step: int) -> Float[Tensor, ""]:
        x = sparse_features(config.batch_size, p_each, generator=trial.generator("batch", step))
        return torch.cat([each.losses(x, importance) for each in models.values()]).sum()

    recipe = Recipe(n_steps=config.n_steps, learning_rate=3e-3, n_decay_steps=config.n_steps // 2)
    trial.learn("toy models", nn.ModuleDict(models), loss, recipe)
    x = sparse_features(8192, p_each, generator=trial.generator("evaluation"))
    Q = _rotations(config.d_hidden, trial.generator("rotations"))
    trained = {kind: _judged(each, x, importance, Q, config.n_replicas) for kind, each in models.items()}
    return Outcome(
        checks=tuple(_checks(**trained)),
        numbers=_numbers(trained, config.p_active),
        arrays={kind: each.W for kind, each in trained.items()} | {"p_active": torch.tensor(config.p_active)},
        models={"toy-neurons": trained["neurons"].models},
    )


def _rotations(d: int, generator: torch.Generator) -> Float[Tensor, "rotation d d"]:
    """Return orthogonal matrices."""
    Q: Tensor = torch.linalg.qr(torch.randn(_N_ROTATIONS, d, d, generator=generator)).Q
    return Q


@torch.no_grad()
def _judged(
    models: ToyModels,
    x: Float[Tensor, "batch instance feature"],
    importance: Float[Tensor, " feature"],
    Q: Float[Tensor, "rotation hidden hidden"],
    n_replicas: int,
) -> _Trained:
    W, losses = models.W.detach().clone(), models.losses(x, importance)
    turned = []
    for each in Q:
        models.W.copy_(W @ each)
        turned.append(models.losses(x, importance) / losses)
    models.W.copy_(W)
    places = best_replicas(losses, n_replicas=n_replicas)
    return _Trained(models.chosen(places), torch.stack(turned).mean(0)[places])


def _alignment(W: Float[Tensor, "feature hidden"]) -> float:
    """Return the largest part that a kept feature has in one axis of the hidden layer, over its length: mean over features."""
    norms: Tensor = W.norm(dim=-1)
    is_kept = norms >= _KEPT_FROM
    return (W[is_kept].abs().amax(-1) / norms[is_kept]).mean().item()


def _share_monosemantic(W: Float[Tensor, "feature hidden"]) -> float:
    """Return the share of hidden axes whose squared weights are nearly all of one feature."""
    squares = W.square()
    return (squares.amax(0) >= _MONOSEMANTIC_FROM * squares.sum(0)).double().mean().item()


def _checks(neurons: _Trained, linear: _Trained) -> Iterator[Check]:
    first, last = _share_monosemantic(neurons.W[0]), _share_monosemantic(neurons.W[-1])
    yield Check(
        name="dense features, ReLU: cosine of a kept feature with its nearest neuron, mean", at_least=0.95,
        value=_alignment(neurons.W[0]), null=_alignment(linear.W[0]), null_of="linear hidden layer",
    )  # fmt: skip
    yield Check(
        name="dense features, ReLU: share of neurons that belong to one feature", at_least=0.9,
        value=first, null=_share_monosemantic(linear.W[0]), null_of="linear hidden layer",
    )  # fmt: skip
    yield Check(
        name="sparsest features, ReLU: share of neurons that belong to one feature", at_most=0.4,
        value=last, null=first, null_of="dense features",
    )  # fmt: skip
    yield Check(
        name="ReLU: loss with the hidden layer rotated over the loss", at_least=2.0,
        value=neurons.turned.min().item(), null=linear.turned.max().item(), null_of="linear hidden layer",
    )  # fmt: skip


def _numbers(trained: Mapping[str, _Trained], p_active: tuple[float, ...]) -> dict[str, float]:
    measures: Mapping[str, Callable[[Tensor], float]] = {
        "features kept": lambda W: (W.norm(dim=-1) >= _KEPT_FROM).sum().item(),
        "cosine of kept features with one axis": _alignment,
        "share of axes of one feature": _share_monosemantic,
    }
    return {
        f"{_LABELS[kind]}: {name} at p = {p:g}": measure(W)
        for kind, each in trained.items()
        for name, measure in measures.items()
        for W, p in zip(each.W, p_active, strict=True)
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the weights of the densest and the sparsest models."""
    from cutaway.plots import heatmap

    arrays = outcome.arrays
    p = arrays["p_active"].tolist()
    shown = {
        "Dense features with a ReLU": (arrays["neurons"][0], f"ReLU, p = {p[0]:g}: a feature a neuron"),
        "Sparse features with a ReLU": (arrays["neurons"][-1], f"ReLU, p = {p[-1]:g}: features share neurons"),
        "Dense features without a ReLU": (arrays["linear"][0], f"Linear, p = {p[0]:g}: any directions will do"),
    }
    n_features, d_hidden = arrays["neurons"].shape[1:]
    return {
        name: heatmap(
            _ordered(W).numpy(), rows=[f"feature {feature + 1}" for feature in range(n_features)],
            columns=[str(neuron + 1) for neuron in range(d_hidden)], title=title, column_title="axis of the hidden layer",
            label="weight", signed=True, limit=1.2,
        )
        for name, (W, title) in shown.items()
    }  # fmt: skip


def _ordered(W: Float[Tensor, "feature hidden"]) -> Float[Tensor, "feature hidden"]:
    """Return the axes in the order of their first features."""
    return W[:, W.abs().argmax(0).argsort()]


EXPERIMENT = Experiment(
    id="privileged-basis",
    title="Superposition: neurons as a privileged basis",
    claim=(
        "With a ReLU in the hidden layer features that are there half of the time take a neuron each and sparse ones share neurons; "
        "without it features lie in any directions, as the hidden layer can be turned for free."
    ),
    source="Elhage et al. 2022, Toy Models of Superposition",
    scales={
        "small": Scale(config=Config(), minutes=0.2),
        "reduced": Scale(config=Config(p_active=(0.5, 0.1), n_replicas=6)),
    },
    run=run,
    draw=draw,
    captions={
        "Dense features with a ReLU": (
            "Weights from features (rows) to the hidden layer (columns). Features that are often there take a neuron each: one deep "
            "cell in a row and a column."
        ),
        "Sparse features with a ReLU": "With rarer features more are kept, and they share neurons: several deep cells in a column.",
        "Dense features without a ReLU": (
            "Without the ReLU nothing singles out the axes of the hidden layer, and features lie in any directions."
        ),
    },
)
