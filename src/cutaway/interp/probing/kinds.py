"""Kinds of probes, each a value that says how one is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.probing.logistic import fit_logistic
from cutaway.interp.probing.probes import LinearProbe, MLPProbe, Probe
from cutaway.interp.probing.task import Task
from cutaway.runtime import seeded_generator

__all__ = ["Kind", "KindName", "Logistic", "Ridge", "MeanDifference", "MLP", "kind_of", "fit"]

KindName = Literal["logistic", "mean-difference", "ridge", "mlp"]


@dataclass(frozen=True)
class Logistic:
    """Logistic regression, of any number of classes; `l2` is the penalty on the weights (`fit_logistic`)."""

    l2: float = 1e-2
    standardize: bool = True
    """Give every coordinate mean 0 and variance 1 over the rows it is fitted on."""
    name: Literal["logistic"] = "logistic"

    def fit(self, x: Float[Tensor, "row d"], task: Task) -> LinearProbe:
        """Return the probe that minimises the loss."""
        mean, scale = _standards(x, is_wanted=self.standardize)
        W, b = fit_logistic((x - mean) / scale, task.targets, len(task.classes), l2=self.l2)
        W = W / scale
        return LinearProbe(kind=self.name, classes=task.classes, W=W, b=b - W @ mean, means=_class_means(x, task))


@dataclass(frozen=True)
class Ridge:
    """Least squares for numbers: minimises the mean squared error plus `l2` times the weights' squared length."""

    l2: float = 1e-2
    standardize: bool = True
    name: Literal["ridge"] = "ridge"

    def fit(self, x: Float[Tensor, "row d"], task: Task) -> LinearProbe:
        """Return the probe, in closed form; raises ValueError for an l2 below 0."""
        if self.l2 < 0:
            raise ValueError(f"l2 is {self.l2:g}; give 0 or more")
        mean, scale = _standards(x, is_wanted=self.standardize)
        z, y = (x - mean) / scale, task.targets.to(x.dtype)
        z_mean, y_mean, n = z.mean(0), y.mean(), len(x)
        z, y = z - z_mean, y - y_mean
        if n < z.shape[1] and self.l2 > 0:  # the smaller of the two systems
            w = z.T @ torch.linalg.solve(z @ z.T + n * self.l2 * torch.eye(n, dtype=z.dtype), y)
        else:
            w = torch.linalg.lstsq(z.T @ z + n * self.l2 * torch.eye(z.shape[1], dtype=z.dtype), z.T @ y, driver="gelsd").solution
        w = w / scale
        b = y_mean - w @ (mean + scale * z_mean)
        return LinearProbe(kind=self.name, classes=(), W=w[None], b=b[None], means=x.new_zeros(0, x.shape[1]))


@dataclass(frozen=True)
class MeanDifference:
    """The class whose mean is nearest; of two classes the direction is the difference of their means.

    Source: Marks and Tegmark 2023, "The Geometry of Truth" (mass-mean probing, there for two classes).
    """

    name: Literal["mean-difference"] = "mean-difference"

    def fit(self, x: Float[Tensor, "row d"], task: Task) -> LinearProbe:
        """Return the probe: scores `m x - |m|²/2` of each class's mean m."""
        means = _class_means(x, task)
        return LinearProbe(kind=self.name, classes=task.classes, W=means, b=-(means**2).sum(1) / 2, means=means)


@dataclass(frozen=True)
class MLP:
    """One hidden layer of rectified units, trained in float32 by AdamW on all rows at once; for numbers on the squared error.

    It reads what no direction holds, and memorises more: compare its selectivity.
    """

    d_hidden: int = 64
    n_steps: int = 300
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    seed: int = 0
    name: Literal["mlp"] = "mlp"

    def fit(self, x: Float[Tensor, "row d"], task: Task) -> MLPProbe:
        """Return the probe after `n_steps`; the same seed gives the same probe."""
        mean, scale = _standards(x, is_wanted=True)
        z, d = ((x - mean) / scale).float(), x.shape[1]
        targets, level, spread = task.targets, x.new_zeros(()), x.new_ones(())
        if task.is_number:
            level, spread = targets.mean(), targets.std(correction=0)
            targets = ((targets - level) / spread).float()
        n_scores, generator = len(task.classes) or 1, seeded_generator(self.seed)
        shapes = {"W_in": (self.d_hidden, d), "b_in": (self.d_hidden,), "W_out": (n_scores, self.d_hidden), "b_out": (n_scores,)}
        weights = {
            name: (torch.randn(shape, generator=generator) / shape[-1] ** 0.5 * (len(shape) > 1)).requires_grad_()
            for name, shape in shapes.items()
        }
        with torch.enable_grad():
            optimizer = torch.optim.AdamW(weights.values(), lr=self.learning_rate, weight_decay=self.weight_decay)
            for _ in range(self.n_steps):
                optimizer.zero_grad()
                hidden = torch.relu(z @ weights["W_in"].T + weights["b_in"])
                scores = hidden @ weights["W_out"].T + weights["b_out"]
                loss = (
                    torch.nn.functional.mse_loss(scores[:, 0], targets)
                    if task.is_number
                    else torch.nn.functional.cross_entropy(scores, targets)
                )
                loss.backward()
                optimizer.step()
        W_in, b_in, W_out, b_out = (weights[name].detach().double() for name in shapes)
        W_in = W_in / scale
        return MLPProbe(
            kind=self.name,
            classes=task.classes,
            W_in=W_in,
            b_in=b_in - W_in @ mean,
            W_out=spread * W_out,
            b_out=spread * b_out + level,
        )


Kind = Logistic | Ridge | MeanDifference | MLP
"""How a probe is fitted."""


def kind_of(kind: Kind | str) -> Kind:
    """Return a kind by its name, with its usual settings; raises ValueError for a name of none."""
    if not isinstance(kind, str):
        return kind
    if kind not in get_args(KindName):
        raise ValueError(f"there is no probe {kind!r}; give one of {', '.join(get_args(KindName))}, or such a value")
    kinds: dict[str, Kind] = {each.name: each for each in (Logistic(), Ridge(), MeanDifference(), MLP())}
    return kinds[kind]


def fit(x: Float[Tensor, "row d"], task: Task, *, kind: Kind | str = "logistic") -> Probe:
    """Return a probe fitted on all rows, in float64.

    Raises ValueError for rows and labels of different number, for activations that are not finite, and for a ridge probe of classes.
    """
    chosen = kind_of(kind)
    if len(x) != len(task):
        raise ValueError(f"there are {len(x)} rows and {len(task)} labels: give one for each")
    if task.is_number and isinstance(chosen, Logistic | MeanDifference):
        raise ValueError(f"a {chosen.name} probe tells classes apart, and the task is of numbers: give the kind ridge or mlp")
    if isinstance(chosen, Ridge) and not task.is_number:
        raise ValueError("a ridge probe predicts numbers, and the task is of classes: make it one of numbers, or give another kind")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("some of the activations are not finite, so nothing can be fitted to them")
    return chosen.fit(x.detach().to("cpu", torch.float64), task)


def _standards(x: Tensor, *, is_wanted: bool) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return each coordinate's mean and standard deviation, 1 where it does not vary; zeros and ones where none are wanted."""
    if not is_wanted:
        return x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    mean, scale = x.mean(0), x.std(0, correction=0)
    tiny = 1e-12 * (mean.abs() + 1e-30)  # what rounding alone leaves of a constant
    return mean, torch.where(scale > tiny, scale, 1.0)


def _class_means(x: Tensor, task: Task) -> Float[Tensor, "class d"]:
    return torch.stack([x[task.targets == place].mean(0) for place in range(len(task.classes))])
