"""Training on data that is made up as it goes: a few lines of the trainer's loop, for any module and any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.training import TrainingError

__all__ = ["Curves", "Progress", "Recipe", "learn"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How weights are moved: AdamW's settings and the course of its rate."""

    n_steps: int
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    n_warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    n_decay_steps: int = 0
    """Steps at the end over which it falls to 0."""
    max_grad_norm: float | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ...: up in a line, level, down in a line."""
        up = (step + 1) / (self.n_warmup_steps + 1)
        down = (self.n_steps - step) / (self.n_decay_steps + 1)
        return self.learning_rate * min(1.0, up, down)


@dataclass
class Curves:
    """What was seen of a training: numbers over steps, by name, and the weights at some steps."""

    points: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """The weights by name after so many steps, of the steps that were asked for."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values of a step."""
        for name, value in values.items():
            steps, known = self.points.setdefault(name, ([], []))
            steps.append(step)
            known.append(float(value))

    def __getitem__(self, name: str) -> Float[Tensor, "2 point"]:
        """Return the steps and the values of a curve, in float64."""
        return torch.tensor(self.points[name], dtype=torch.float64)


@dataclass(kw_only=True)
class Progress:
    """What there is of a training beside the weights: `learn` goes on from it, and brings it up to date."""

    n_done: int = 0
    curves: Curves = field(default_factory=Curves)
    moments: dict[str, Tensor] = field(default_factory=dict)
    """What the optimizer remembers of each weight, as `exp_avg.WEIGHT`; nothing once the training is whole."""
    time_s: float = 0.0
    sources: str | None = None
    """The hash of the code that trains."""


def learn(
    module: nn.Module,
    loss: Callable[[int], Float[Tensor, ""]],
    recipe: Recipe,
    *,
    adjust: Callable[[], None] = lambda: None,
    watch: Callable[[int], Mapping[str, float]] = lambda _: {},
    watch_every: int = 100,
    keep: Container[int] = (),
    report: Callable[[int, int, str], None] = lambda *_: None,
    progress: Progress | None = None,
    save: Callable[[Progress], None] = lambda _: None,
    save_every_s: float = math.inf,
) -> Curves:
    """Move a module's weights `recipe.n_steps` times against the loss that a function of the step returns; give the curves.

    The loss of every step is a curve; `watch`, a function of the number of steps done, gives more, before the first step, every
    `watch_every` and after the last. The weights are kept after so many steps as `keep` holds. `adjust` may change gradients before
    they are used. `report` hears how many of how many steps are done. `save` gets the progress now and then, `progress` is one to go
    on from. Raises TrainingError when the loss is no longer finite.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    settings = {"lr": recipe.learning_rate, "betas": (recipe.beta1, recipe.beta2), "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.AdamW(weights, fused=True, **settings)  # type: ignore[arg-type]
    progress = Progress() if progress is None else progress
    curves, clock = progress.curves, _Clock(progress)
    _restore(optimizer, module, progress.moments)
    for step in range(progress.n_done, recipe.n_steps):
        if clock.since_saved_s >= save_every_s:
            progress.moments = _moments(optimizer, module)
            save(clock.stop(n_done=step))
        if step % watch_every == 0:
            curves.add(step, _watched(watch, step))
        if step in keep:
            curves.kept[step] = _copied(module)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        adjust()
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
        optimizer.step()
        if not math.isfinite(number := value.item()):
            raise TrainingError(f"the loss is {number} after step {step}, so training stopped; try a lower learning rate")
        curves.add(step, {"loss": number})
        report(step + 1, recipe.n_steps, f"loss {number:.4g}")
    curves.add(recipe.n_steps, _watched(watch, recipe.n_steps))
    if recipe.n_steps in keep:
        curves.kept[recipe.n_steps] = _copied(module)
    progress.moments = {}
    return clock.stop(n_done=recipe.n_steps).curves


class _Clock:
    """Counts the seconds of a training."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.since = progress, time.perf_counter()

    @property
    def since_saved_s(self) -> float:
        return time.perf_counter() - self.since

    def stop(self, *, n_done: int) -> Progress:
        """Note the seconds up to now, and count from here."""
        self.progress.n_done = n_done
        self.progress.time_s += self.since_saved_s
        self.since = time.perf_counter()
        return self.progress


def _moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{kind}.{name}": value
        for name, weight in module.named_parameters()
        for kind, value in optimizer.state.get(weight, {}).items()
    }


def _restore(optimizer: torch.optim.Optimizer, module: nn.Module, moments: Mapping[str, Tensor]) -> None:
    weights = dict(module.named_parameters())
    for full_name, value in moments.items():
        kind, _, name = full_name.partition(".")
        optimizer.state[weights[name]][kind] = value.clone()


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def _watched(watch: Callable[[int], Mapping[str, float]], step: int) -> Mapping[str, float]:
    with torch.no_grad():
        return watch(step)
