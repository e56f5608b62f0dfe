"""A dictionary trained: rows in, one step of Adam each batch, features that died brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.sae.activations import ActivationSource, TensorActivations
from cutaway.interp.sae.curve import LearningCurve, Point
from cutaway.interp.sae.dictionary import BatchTopK, Dictionary, JumpReLU, make_dictionary
from cutaway.interp.sae.revival import auxiliary_loss, resample
from cutaway.interp.sae.scales import Scales, measure_scales
from cutaway.interp.sae.shape import DictionaryConfig
from cutaway.interp.sae.snapshots import read_snapshot, write_snapshot
from cutaway.runtime import seeded_generator

__all__ = ["SAEConfig", "TrainProgress", "train"]

TrainProgress = Callable[[int, int, Point], None]
"""Told after each step: the steps done, the steps in all, and the last point of the curve."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """How a dictionary is trained; raises ValueError for numbers out of range.

    The loss is `|y - y_hat|^2 / d_out + sparsity * penalty`, on activations scaled so that `|y|^2` is `d_out` in the mean. The penalty
    of `relu` is the latents' sum over `sqrt(d_out)`, of `jumprelu` their number.
    """

    dictionary: DictionaryConfig
    n_steps: int = 2000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    sparsity: float = 0.0
    """What the penalty is multiplied with; the kinds with k have none."""
    warm_up: float = 0.05
    """The share of the steps over which the learning rate rises from 0, and the penalty with it."""
    decay: float = 0.2
    """The share of the steps, the last ones, over which the learning rate falls to 0."""
    dead_after: int = 100_000
    """In so many rows without firing once a latent is dead."""
    auxiliary: float = 1 / 32
    """What the loss of the dead latents is multiplied with, in the kinds with k (Gao et al. 2024, appendix A.2)."""
    resample_at: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """After which shares of the steps dead latents begin anew, in the kinds with a penalty (Bricken et al. 2023)."""
    max_norm: float | None = 10.0
    """Rows longer than so many times the median are left out, as a first position's are; None keeps all."""
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "learning_rate", "dead_after", "log_every"):
            if not getattr(self, name) > 0:
                said = {"n_steps": "the number of steps"}.get(name, name)
                raise ValueError(f"{said} is {getattr(self, name)}; expected more than 0")
        for name in ("warm_up", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share of the steps, at least 0 and less than 1")
        if self.sparsity < 0 or (self.sparsity > 0 and self.dictionary.k is not None):
            why = "k says how many latents there are" if self.dictionary.k else "expected at least 0"
            raise ValueError(f"sparsity is {self.sparsity:g}: {why}")
        if self.dictionary.k is None and self.sparsity == 0:
            raise ValueError(f"a dictionary of kind {self.dictionary.kind!r} needs sparsity, what its penalty is multiplied with")
        if self.max_norm is not None and self.max_norm <= 1:
            raise ValueError(f"max_norm is {self.max_norm}; expected more than 1 times the median, or None")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = (step + 1) / max(self.warm_up * self.n_steps, 1)
        falling = (self.n_steps - step) / max(self.decay * self.n_steps, 1)
        return self.learning_rate * min(1.0, rising, falling)

    def resamples_at(self, step: int) -> bool:
        """Whether dead latents begin anew after so many steps."""
        return self.dictionary.k is None and step in {round(share * self.n_steps) for share in self.resample_at}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self)


@dataclass
class _State:
    """Where a training stands."""

    dictionary: Dictionary
    optimizer: torch.optim.Adam
    n_since: Int[Tensor, " d_sae"]
    """Rows since each latent fired."""
    scales: Scales
    step: int = 0
    epoch: int = 0
    n_batches: int = 0
    """Batches of the epoch that are done."""
    n_left_out: int = 0
    points: list[Point] = field(default_factory=list)

    def counters(self) -> dict[str, int]:
        """Return what is counted, as JSON has it."""
        return {name: getattr(self, name) for name in ("step", "epoch", "n_batches", "n_left_out")}


def train(
    config: SAEConfig,
    activations: ActivationSource | Float[Tensor, "row d"],
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | str | None = None,
    checkpoint_every: int = 500,
    progress: TrainProgress | None = None,
) -> tuple[Dictionary, LearningCurve]:
    """Train a dictionary on rows of activations, and return it, for the activations as they come, and its learning curve.

    A row of a transcoder is what it reads and after it what it predicts. Everything follows from the config's seed. With `checkpoints`,
    a folder, the state is written there every so many steps, and a training that was interrupted goes on from it to the same result.
    Raises ValueError for activations of another name or width, for rows that are not finite, and for checkpoints of another training.
    """
    source = TensorActivations(activations) if isinstance(activations, Tensor) else activations
    stored = getattr(source, "name", "")  # of a stored activation, which knows it
    if stored and config.dictionary.name and stored != config.dictionary.name:
        raise ValueError(
            f"the dictionary is for {config.dictionary.name!r} and the activations are {stored!r}: give those it is for"
        )
    folder = None if checkpoints is None else Path(checkpoints)
    state = _begin(config, source, torch.device(device))
    if folder is not None and (found := read_snapshot(folder, config.to_dict())) is not None:
        _restore(state, *found)
    state.dictionary.train()
    for rows in _rows(config, source, state):
        point = _step(config, state, rows.flatten(1).to(device=device, dtype=torch.float32))
        if point is not None:
            state.points.append(point)
        if not state.points:
            raise ValueError(
                "the first batch of activations is one row over and over, so there is nothing to learn: give more text"
            )
        if progress is not None:
            progress(state.step, config.n_steps, state.points[-1])
        if folder is not None and state.step % checkpoint_every == 0 and state.step < config.n_steps:
            _write(folder, config, state)
    dictionary = state.dictionary.eval()
    dictionary.fold_scales(state.scales.read, state.scales.predicted)
    if config.dictionary.n_models > 1:  # whoever compares its models asks for them
        dictionary.config = replace(config.dictionary, scales=tuple(state.scales.of_models()))
    curve = LearningCurve(
        kind=config.dictionary.kind, name=config.dictionary.name, target=config.dictionary.target, d_sae=config.dictionary.d_sae,
        n_steps=config.n_steps, batch_size=config.batch_size, points=tuple(state.points), n_left_out=state.n_left_out,
        scales=tuple(state.scales.of_models()), settings=config.to_dict(),
    )  # fmt: skip
    return dictionary.requires_grad_(False), curve


def _begin(config: SAEConfig, source: ActivationSource, device: torch.device) -> _State:
    shape = config.dictionary
    dictionary = make_dictionary(shape, generator=seeded_generator(config.seed)).to(device)
    scales = measure_scales(shape, source, batch_size=config.batch_size, seed=config.seed, max_norm=config.max_norm).to(device)
    with torch.no_grad():
        dictionary.b_dec.copy_(scales.mean * scales.predicted)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=config.learning_rate, fused=True)
    return _State(dictionary, optimizer, torch.zeros(shape.d_sae, dtype=torch.long, device=device), scales)


def _rows(config: SAEConfig, source: ActivationSource, state: _State) -> Iterator[Tensor]:
    """Yield batches until all steps are done, epoch by epoch, each with a seed of its own."""
    while state.step < config.n_steps:
        n_before = state.step
        epoch = source.batches(config.batch_size, seed=config.seed + 1 + state.epoch)
        for rows in islice(epoch, state.n_batches, None):
            state.n_batches += 1
            yield rows
            if state.step == config.n_steps:
                return
        if state.step == n_before and state.n_batches == 0:
            raise ValueError("there are no activations to train on: the source gave no rows")
        state.epoch, state.n_batches = state.epoch + 1, 0


def _step(config: SAEConfig, state: _State, rows: Float[Tensor, "row d"]) -> Point | None:
    """Take one step on a batch, and return a point of the curve where one is due."""
    dictionary, shape = state.dictionary, config.dictionary
    kept = state.scales.kept(rows)
    state.n_left_out += len(rows) - len(kept)
    x, y = state.scales.split(kept)
    pre, latents, predicted = dictionary.explain(x)
    error = y - predicted
    loss = error.square().sum() / (len(x) * shape.d_out)
    if config.sparsity:
        share = min(1.0, (state.step + 1) / max(config.warm_up * config.n_steps, 1))
        loss = loss + share * config.sparsity * dictionary.penalty(pre, latents)
    is_dead = state.n_since >= config.dead_after
    if shape.k is not None and config.auxiliary:
        loss = loss + config.auxiliary * auxiliary_loss(dictionary, pre, error.detach(), is_dead)
    point = None
    if state.step % config.log_every == 0 or state.step == config.n_steps - 1:
        point = _point(state.step, loss, y, error, latents, is_dead)
    _update(config, state, loss, latents)
    if config.resamples_at(state.step):
        resample(dictionary, state.optimizer, is_dead, x, error, generator=seeded_generator(config.seed + state.step))
        state.n_since[is_dead] = 0
    return point


def _update(config: SAEConfig, state: _State, loss: Float[Tensor, ""], latents: Float[Tensor, "batch d_sae"]) -> None:
    dictionary = state.dictionary
    state.optimizer.zero_grad()
    loss.backward()
    _stay_on_sphere(dictionary)
    for group in state.optimizer.param_groups:
        group["lr"] = config.rate(state.step)
    state.optimizer.step()
    dictionary.normalise_decoder()
    if isinstance(dictionary, BatchTopK):
        dictionary.follow_threshold(latents)
    if isinstance(dictionary, JumpReLU):
        with torch.no_grad():
            dictionary.threshold.clamp_(min=0)
    has_fired = (latents.detach() > 0).any(0)
    state.n_since = torch.where(has_fired, 0, state.n_since + len(latents))
    state.step += 1


@torch.no_grad()
def _stay_on_sphere(dictionary: Dictionary) -> None:
    """Take off each decoder row's gradient what lies along the row, which would only change its length (Bricken et al. 2023)."""
    W, grad = dictionary.W_dec, dictionary.W_dec.grad
    assert grad is not None
    grad -= (grad * W).sum(1, keepdim=True) * W


@torch.no_grad()
def _point(step: int, loss: Tensor, y: Tensor, error: Tensor, latents: Tensor, is_dead: Bool[Tensor, " d_sae"]) -> Point | None:
    if not bool(loss.isfinite()):
        raise ValueError(
            f"the loss of step {step} is {loss.item()}: the activations are not finite, or the learning rate is too high"
        )
    variance = (y - y.mean(0)).square().sum()
    if not variance:  # of one row alone, as an epoch's last batch may be, no share is left unexplained
        return None
    return Point(
        step=step,
        loss=loss.item(),
        fvu=(error.square().sum() / variance).item(),
        l0=(latents > 0).sum(1).float().mean().item(),
        dead=is_dead.float().mean().item(),
    )


def _write(folder: Path, config: SAEConfig, state: _State) -> None:
    tensors = {f"weights.{name}": tensor for name, tensor in state.dictionary.state_dict().items()}
    for name, weight in state.dictionary.named_parameters():
        tensors |= {f"adam.{name}.{part}": each for part, each in state.optimizer.state[weight].items()}
    tensors["n_since"] = state.n_since
    about = {"counters": state.counters(), "config": config.to_dict(), "points": [asdict(point) for point in state.points]}
    write_snapshot(folder, state.step, tensors, about)


def _restore(state: _State, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    device = state.n_since.device
    weights = {name.removeprefix("weights."): each for name, each in tensors.items() if name.startswith("weights.")}
    state.dictionary.load_state_dict(weights)
    for name, weight in state.dictionary.named_parameters():
        parts = {part: tensors[f"adam.{name}.{part}"].to(device) for part in ("step", "exp_avg", "exp_avg_sq")}
        state.optimizer.state[weight] = parts
    state.n_since = tensors["n_since"].to(device)
    for name, count in about["counters"].items():
        setattr(state, name, count)
    state.points = [Point(**point) for point in about["points"]]
