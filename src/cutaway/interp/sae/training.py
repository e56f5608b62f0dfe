"""A dictionary trained: rows in, one step of Adam each batch, features that died brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.sae.activations import ActivationSource, TensorActivations
from cutaway.interp.sae.curve import LearningCurve, Point
from cutaway.interp.sae.dictionary import BatchTopK, Dictionary, JumpReLU, make_dictionary
from cutaway.interp.sae.reconstruction import measure_reconstruction
from cutaway.interp.sae.revival import auxiliary_loss, resample
from cutaway.interp.sae.sae_config import SAEConfig
from cutaway.interp.sae.scales import Scales, first_rows, measure_scales
from cutaway.interp.sae.snapshots import read_snapshot, write_snapshot
from cutaway.interp.training_data import TrainingData
from cutaway.runtime import seeded_generator
from cutaway.training.interrupt import StopRequest, stop_request

__all__ = ["TrainProgress", "train", "train_together"]

_N_CALIBRATING = 2**14  # rows on which a threshold is set
_N_KNOWN_BY = 64  # rows by which a source is known again
_ALIKE = 0.05  # of their length: computed anew on another machine in 16 bits, rows are that near, and other rows are not
_SCALES = ("read", "predicted", "mean")

TrainProgress = Callable[[int, int, Point], None]
"""Told after each step: the steps done, the steps in all, and the last point of the curve."""


@dataclass
class _State:
    """Where a training stands."""

    dictionary: Dictionary
    optimizer: torch.optim.Adam
    n_since: Int[Tensor, " d_sae"]
    """Rows since each latent fired."""
    scales: Scales
    first: Float[Tensor, "row d_row"]
    """Rows that its source gives first, by which that is known again."""
    step: int = 0
    epoch: int = 0
    n_batches: int = 0
    """Batches of the epoch that are done."""
    n_left_out: int = 0
    n_seen: int = 0
    """Rows that were not."""
    points: list[Point] = field(default_factory=list)

    def counters(self) -> dict[str, int]:
        """Return what is counted, as JSON has it."""
        return {name: getattr(self, name) for name in ("step", "epoch", "n_batches", "n_left_out", "n_seen")}

    def dead(self, config: SAEConfig) -> float | None:
        """Return the share of latents that are dead; None before there were rows enough to say so of any."""
        assert config.dead_after is not None
        return config.are_dead(self.n_since).float().mean().item() if self.n_seen >= config.dead_after else None

    def never_fired(self) -> float:
        """Return the share of latents that fired on no row at all."""
        return (self.n_since == self.n_seen).float().mean().item()


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
    a folder, the state is written there every so many steps and when Ctrl-C asks to stop, and the same call goes on to the same result.
    What stored rows are of is kept with the dictionary as `trained_on`: give the first part of `StoredActivation.split`, and the other
    is left to measure on. The threshold of a batchtopk, which training follows at a distance, is set at the end on rows of its own.
    Raises ValueError for activations of another name or width, for rows that are not finite, and for checkpoints of another training
    or other activations.
    """
    source = TensorActivations(activations) if isinstance(activations, Tensor) else activations
    stored = getattr(source, "name", "")  # of a stored activation, which knows it
    if stored and config.dictionary.name and stored != config.dictionary.name:
        raise ValueError(
            f"the dictionary is for {config.dictionary.name!r} and the activations are {stored!r}: give those it is for"
        )
    (trained,) = train_together(
        [config], source, device=device, checkpoints=checkpoints, checkpoint_every=checkpoint_every,
        progress=None if progress is None else lambda n_done, n_all, points: progress(n_done, n_all, points[0]),
    )  # fmt: skip
    return trained


def train_together(
    configs: Sequence[SAEConfig],
    activations: ActivationSource | Float[Tensor, "row d"],
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | str | None = None,
    checkpoint_every: int = 500,
    progress: Callable[[int, int, Sequence[Point]], None] | None = None,
) -> list[tuple[Dictionary, LearningCurve]]:
    """Train several dictionaries on one reading of activations, such as a transcoder for every layer, as `train` does each.

    A row has what the first dictionary reads and predicts, then what the second does, and so on. Raises ValueError for none, for
    dictionaries that are not to be trained for equally many steps on the same batches, and for what `train` refuses; with
    `checkpoints` KeyboardInterrupt, after writing the state there, when asked to stop.
    """
    source = TensorActivations(activations) if isinstance(activations, Tensor) else activations
    if len({(each.n_steps, each.batch_size, each.seed) for each in configs}) != 1:
        raise ValueError(
            "dictionaries trained together need one n_steps, one batch_size and one seed: give at least one, all alike"
        )
    configs = [_knowing(each, getattr(source, "training_data", None)) for each in configs]
    folder, first = None if checkpoints is None else Path(checkpoints), configs[0]
    spans = _spans([each.dictionary.d_row for each in configs])
    states = _begin(configs, spans, source, torch.device(device))
    if folder is not None and (found := read_snapshot(folder, _described(configs))) is not None:
        _restore(folder, states, *found)
    with nullcontext(StopRequest()) if folder is None else stop_request() as stop:
        for rows in _rows(first, source, states[0]):
            _step_all(configs, states, spans, rows.flatten(1))
            n_done = states[0].step
            if progress is not None:
                progress(n_done, first.n_steps, [state.points[-1] for state in states])
            is_unfinished = n_done < first.n_steps
            if folder is not None and is_unfinished and (stop.is_set or n_done % checkpoint_every == 0):
                _write(folder, configs, states)
            if stop.is_set and is_unfinished:
                raise KeyboardInterrupt(f"stopped and saved after step {n_done} in {folder}; the same command goes on from there")
    if any(isinstance(state.dictionary, BatchTopK) for state in states):
        n_batches = -(-_N_CALIBRATING // first.batch_size)
        rows = first_rows(source, batch_size=first.batch_size, seed=first.seed, n_batches=n_batches)
        for config, state, span in zip(configs, states, spans, strict=True):
            _calibrate(config, state, rows[:, span].to(device=device))
    return [_finish(config, state) for config, state in zip(configs, states, strict=True)]


def _step_all(
    configs: Sequence[SAEConfig], states: Sequence[_State], spans: Sequence[slice], rows: Float[Tensor, "row d_row"]
) -> None:
    """Take one step of each dictionary on its part of a batch; raises ValueError for a first batch that has nothing to learn."""
    for config, state, span in zip(configs, states, spans, strict=True):
        point = _step(config, state, rows[:, span].to(device=state.n_since.device, dtype=torch.float32))
        if point is not None:
            state.points.append(point)
    if not all(state.points for state in states):
        raise ValueError("the first batch of activations is one row over and over, so there is nothing to learn: give more text")


def _knowing(config: SAEConfig, data: TrainingData | None) -> SAEConfig:
    """Return a configuration that says what is learned from, where it does not already."""
    if data is None or config.dictionary.trained_on is not None:
        return config
    return replace(config, dictionary=replace(config.dictionary, trained_on=data))


def _spans(widths: Sequence[int]) -> list[slice]:
    ends = list(accumulate(widths, initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]


def _calibrate(config: SAEConfig, state: _State, rows: Float[Tensor, "row d"]) -> None:
    """Set the threshold of a batchtopk, and add a point that says what it does with that."""
    shape, dictionary = config.dictionary, state.dictionary
    if not isinstance(dictionary, BatchTopK):
        return
    x, y = state.scales.split(state.scales.kept(rows))
    dictionary.eval()
    dictionary.calibrate_threshold(x)
    found = measure_reconstruction(dictionary, [torch.cat([x, y], dim=1) if shape.is_transcoder else x])
    loss = found.squared_error / (found.n_rows * shape.d_out)
    state.points.append(Point(step=state.step, loss=loss, fvu=found.fvu, l0=found.l0, dead=state.dead(config)))


def _finish(config: SAEConfig, state: _State) -> tuple[Dictionary, LearningCurve]:
    """Return a dictionary of the activations as they come, and its curve."""
    shape, dictionary = config.dictionary, state.dictionary.eval()
    dictionary.fold_scales(state.scales.read, state.scales.predicted)
    if shape.n_models > 1:  # whoever compares its models asks for them
        dictionary.config = replace(shape, scales=tuple(state.scales.of_models()))
    curve = LearningCurve(
        kind=shape.kind, name=shape.name, target=shape.target, d_sae=shape.d_sae, n_steps=config.n_steps,
        batch_size=config.batch_size, points=tuple(state.points), n_left_out=state.n_left_out,
        never_fired=state.never_fired(), scales=tuple(state.scales.of_models()), settings=config.to_dict(),
    )  # fmt: skip
    return dictionary.requires_grad_(False), curve


def _begin(configs: Sequence[SAEConfig], spans: Sequence[slice], source: ActivationSource, device: torch.device) -> list[_State]:
    rows = first_rows(source, batch_size=configs[0].batch_size, seed=configs[0].seed)
    if len(configs) > 1 and len(rows) and rows.shape[1] != spans[-1].stop:
        raise ValueError(
            f"the activations have {rows.shape[1]} coordinates and the dictionaries read and predict {spans[-1].stop}: give what each "
            "is for, side by side"
        )
    return [
        _begin_one(config, rows if len(configs) == 1 else rows[:, span], device)
        for config, span in zip(configs, spans, strict=True)
    ]


def _begin_one(config: SAEConfig, rows: Float[Tensor, "row d"], device: torch.device) -> _State:
    shape = config.dictionary
    dictionary = make_dictionary(shape, generator=seeded_generator(config.seed)).to(device).train()
    scales = measure_scales(shape, rows, max_norm=config.max_norm).to(device)
    with torch.no_grad():
        dictionary.b_dec.copy_(scales.mean * scales.predicted)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=config.learning_rate, fused=True)
    n_since = torch.zeros(shape.d_sae, dtype=torch.long, device=device)
    return _State(dictionary, optimizer, n_since, scales, rows[:_N_KNOWN_BY].to(device))


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
    is_dead = config.are_dead(state.n_since)
    if shape.k is not None and config.auxiliary:
        loss = loss + config.auxiliary * auxiliary_loss(dictionary, pre, error.detach(), is_dead)
    point = None
    if state.step % config.log_every == 0 or state.step == config.n_steps - 1:
        point = _point(state.step, loss, y, error, latents, state.dead(config))
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
    state.n_seen += len(latents)
    state.step += 1


@torch.no_grad()
def _stay_on_sphere(dictionary: Dictionary) -> None:
    """Take off each decoder row's gradient what lies along the row, which would only change its length (Bricken et al. 2023)."""
    W, grad = dictionary.W_dec, dictionary.W_dec.grad
    assert grad is not None
    grad -= (grad * W).sum(1, keepdim=True) * W


@torch.no_grad()
def _point(step: int, loss: Tensor, y: Tensor, error: Tensor, latents: Tensor, dead: float | None) -> Point | None:
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
        dead=dead,
    )


def _are_alike(rows: Float[Tensor, "row d_row"], kept: Tensor | None) -> bool:
    if kept is None or kept.shape != rows.shape:
        return False
    return bool((rows - kept.to(rows)).norm() <= _ALIKE * rows.norm())


def _described(configs: Sequence[SAEConfig]) -> dict[str, Any]:
    """Return what a snapshot is compared with: the one config, or each by its place."""
    return configs[0].to_dict() if len(configs) == 1 else {str(place): config.to_dict() for place, config in enumerate(configs)}


def _write(folder: Path, configs: Sequence[SAEConfig], states: Sequence[_State]) -> None:
    tensors: dict[str, Tensor] = {}
    for place, state in enumerate(states):
        tensors |= {f"{place}.weights.{name}": tensor for name, tensor in state.dictionary.state_dict().items()}
        for name, weight in state.dictionary.named_parameters():
            tensors |= {f"{place}.adam.{name}.{part}": each for part, each in state.optimizer.state[weight].items()}
        tensors |= {f"{place}.n_since": state.n_since, f"{place}.first": state.first}
        tensors |= {f"{place}.scales.{part}": getattr(state.scales, part) for part in _SCALES}
    about = {
        "config": _described(configs),
        "counters": [state.counters() for state in states],
        "longest": [state.scales.longest for state in states],
        "points": [[asdict(point) for point in state.points] for state in states],
    }
    write_snapshot(folder, states[0].step, tensors, about)


def _restore(folder: Path, states: Sequence[_State], tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Go on from a snapshot, in its scales; raises ValueError for one that was trained on other activations."""
    for place, state in enumerate(states):
        device, start = state.n_since.device, f"{place}.weights."
        if not _are_alike(state.first, tensors.get(f"{place}.first")):
            raise ValueError(
                f"{folder} holds a training on other activations than these: give the same, or a folder of its own, or remove this one"
            )
        read, predicted, mean = (tensors[f"{place}.scales.{part}"].to(device) for part in _SCALES)
        state.scales = Scales(state.scales.shape, read, predicted, mean, about["longest"][place])
        state.dictionary.load_state_dict(
            {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
        )
        for name, weight in state.dictionary.named_parameters():
            parts = {part: tensors[f"{place}.adam.{name}.{part}"].to(device) for part in ("step", "exp_avg", "exp_avg_sq")}
            state.optimizer.state[weight] = parts
        state.n_since = tensors[f"{place}.n_since"].to(device)
        for name, count in about["counters"][place].items():
            setattr(state, name, count)
        state.points = [Point(**point) for point in about["points"][place]]
