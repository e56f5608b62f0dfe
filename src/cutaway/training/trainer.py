"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import torch

from cutaway.data import Loader, ShardLoader, TokenArray, cut_windows, validation_batches
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.ranks import Ranks, job_command, naming_lost_ranks
from cutaway.runs import Run
from cutaway.runtime import clear_unfinished, pick_device, pick_dtype, seeded_generator
from cutaway.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from cutaway.training.config import TrainConfig
from cutaway.training.feed import Feed
from cutaway.training.interrupt import StopRequest, stop_request
from cutaway.training.log import Listener, MetricsFile, TensorBoard
from cutaway.training.observers import Observer, observe
from cutaway.training.optimizer import make_optimizers
from cutaway.training.pace import Pace
from cutaway.training.parallel import Parallel, make_parallel
from cutaway.training.progress import ProgressLine, describe_run
from cutaway.training.schedule import is_watched, learning_rate, n_window_tokens
from cutaway.training.setup import Materials
from cutaway.training.step import StepResult, TrainStep, next_token_loss, read_results
from cutaway.views import without_dropout
from cutaway.weights import assemble

__all__ = ["TrainingError", "run_training", "validation_loss"]


_ASK_S, _PATIENCE_S = 0.2, 10.0


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved before is whole."""


def run_training(
    materials: Materials, folder: Path, *, observers: Mapping[str, Observer], ranks: Ranks | None = None, quiet: bool = False
) -> None:
    """Train in `folder`, where nobody else does, from its newest checkpoint, or from new weights, to the last step.

    Many processes run it together; the first alone writes and speaks. Raises TrainingError when the loss is no longer finite,
    LostRankError when a process is gone, and KeyboardInterrupt, after saving, when one is asked to stop.
    """
    config, device, ranks = materials.config, pick_device(materials.config.device), ranks or Ranks()
    dtype = getattr(torch, pick_dtype(config.dtype, device))
    parallel = make_parallel(config, ranks, dtype)
    with ExitStack() as stack:
        pace = Pace(config, device, ranks, dtype=dtype)
        state, loader = _start(materials, folder, device, parallel)
        feed = Feed(loader, device, n_batches=config.n_accumulate)
        started = time.perf_counter() - state.time_s
        listeners, tell = _listeners(materials, folder, state, pace, quiet, ranks, stack)
        take_step = TrainStep(state.model, state.optimizers, config, parallel=parallel, tell=tell)
        stop = stack.enter_context(stop_request())
        stack.enter_context(naming_lost_ranks(lambda: _lost(state, folder, ranks)))
        stack.enter_context(torch.enable_grad())  # whatever mode the caller is in
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))  # the caller's randomness stays
        if state.step == 0:
            _tell(listeners, {"step": 0, "time_s": 0.0, **_look(state, materials, observers, parallel)})
            save_checkpoint(state, folder / "checkpoints", ranks)
        unread: list[StepResult] = []
        pace.begin()
        while state.step < config.n_steps and _goes_on(feed, stop, ranks, tell):
            torch.manual_seed(_dropout_seed(config.seed, state.step, ranks))
            rate, n_pos = learning_rate(state.step, config), n_window_tokens(state.step, config)
            batches = [cut_windows(batch, n_pos) for batch in feed.take()]
            unread.append(take_step(batches, learning_rate=rate))
            pace.count_step(n_pos)
            state.step, state.loader = state.step + 1, feed.state
            if state.step < config.n_steps:
                feed.draw_ahead()
            if not _is_due(state.step, config, watches=bool(observers)):
                continue
            loss, grad_norm = _read(unread, state.step, folder, ranks)[-1]
            state.time_s = time.perf_counter() - started
            with pace.looking():
                seen = _look(state, materials, observers, parallel)
            _check_finite(seen, state.step, folder)
            if seen or state.step % config.log_every == 0:
                record = {"step": state.step, "tokens": state.step * config.n_tokens_per_step, "loss": loss, "lr": rate}
                _tell(listeners, record | {"grad_norm": grad_norm} | pace.figures() | {"time_s": state.time_s} | seen)
            if state.step == config.n_steps or state.step % config.save_every == 0:
                with pace.looking():
                    save_checkpoint(state, folder / "checkpoints", ranks)
        if state.step < config.n_steps:
            _read(unread, state.step, folder, ranks)
            state.time_s = time.perf_counter() - started
            save_checkpoint(state, folder / "checkpoints", ranks)
            _raise_why(feed, f"stopped and saved after step {state.step}; go on by `{_resume_command(folder, ranks)}`", ranks)


def _raise_why(feed: Feed, stopped: str, ranks: Ranks) -> NoReturn:
    """Raise, in all processes, why one of them has no more data, or else KeyboardInterrupt."""
    for failure in filter(None, ranks.of_all(feed.failure)):
        raise failure
    raise KeyboardInterrupt(stopped)


def _goes_on(feed: Feed, stop: StopRequest, ranks: Ranks, tell: Callable[[str], None]) -> bool:
    """Wait, all processes together, for the data of the next step; return False if one cannot have them, or is asked to stop."""
    started, has_told = time.monotonic(), False
    while ranks.any(stop.is_set or not feed.draw_ahead()):  # one question a step, as a rule
        if ranks.any(stop.is_set or feed.failure is not None):
            return False
        if not has_told and time.monotonic() - started > _PATIENCE_S:
            tell("waiting for documents that are still being made shards")
            has_told = True
        time.sleep(_ASK_S)
    return True


def _is_due(step: int, config: TrainConfig, *, watches: bool) -> bool:
    """Return whether something is made of what a step found: a record, a look at the model, a checkpoint."""
    every = (config.log_every, config.validate_every, config.save_every)
    return step == config.n_steps or any(step % each == 0 for each in every) or (watches and is_watched(step, config))


def _read(unread: list[StepResult], step: int, folder: Path, ranks: Ranks) -> list[tuple[float, float]]:
    """Wait for what the steps up to this one found, and return loss and norm of each; raises TrainingError for one not finite.

    Steps that nobody looks at are read with the next that is, so that a GPU need not wait in between; before anything is saved all are.
    """
    results = read_results(unread, ranks)
    for number, (loss, grad_norm) in enumerate(results, start=step + 1 - len(unread)):
        _check_finite({"loss": loss, "grad_norm": grad_norm}, number, folder)
    unread.clear()
    return results


def _dropout_seed(seed: int, step: int, ranks: Ranks) -> int:
    """Return the seed of a step's dropout; every process has its own, the first that of one process alone."""
    return (seed * 1_000_003 + step + (ranks.rank.index << 40)) % 2**63


def _lost(state: TrainState, folder: Path, ranks: Ranks) -> str:
    return (
        f"another process of this job ended, so training stopped after step {state.step}; {_kept(folder)}; go on by "
        f"`{_resume_command(folder, ranks)}`"
    )


def _resume_command(folder: Path, ranks: Ranks) -> str:
    return job_command(f"train --resume {shlex.quote(str(folder))}", ranks.rank)


_MOST_LOGITS = 2**24
"""How many to hold at once when validating: 64 MiB of them."""


def validation_loss(
    model: Transformer,
    tokens: TokenArray,
    *,
    n_window: int | None = None,
    batch_size: int | None = None,
    max_windows: int | None = None,
    parallel: Parallel | None = None,
) -> float:
    """Return the mean loss in nats a token over windows that tile `tokens`, or `max_windows` of them.

    A window has `n_window` tokens, the whole context unless given. Many processes take a part of the windows each.
    """
    parallel = parallel or Parallel()
    n_window = n_window or model.config.n_ctx
    batch_size = batch_size or max(1, min(64, _MOST_LOGITS // (n_window * model.config.d_vocab_out)))
    total, n_tokens = 0.0, 0.0
    device = model.embed.W_E.device
    model = without_dropout(model)
    batches = validation_batches(tokens, batch_size=batch_size, n_ctx=n_window, max_windows=max_windows, part=parallel.ranks.part)
    with torch.no_grad():  # what is gathered of a sharded model is needed again for gradients, so no inference mode
        while parallel.ranks.any((batch := next(batches, None)) is not None):
            inputs, targets = batch or (torch.zeros(1, n_window, dtype=torch.long),) * 2  # a sharded model runs in all or in none
            loss = next_token_loss(model, inputs.to(device), targets.to(device), dtype=parallel.validation_dtype)
            if batch:
                total, n_tokens = total + loss.item() * targets.numel(), n_tokens + targets.numel()
    total, n_tokens = parallel.ranks.total(total, n_tokens)
    return total / n_tokens


def _start(materials: Materials, folder: Path, device: torch.device, parallel: Parallel) -> tuple[TrainState, Loader | ShardLoader]:
    config, ranks = materials.config, parallel.ranks
    newest = ranks.from_first(Run(folder).latest_checkpoint)
    if materials.source is None or newest:
        model = Transformer(config.model, generator=seeded_generator(config.seed))
    else:
        model = assemble(config.model, materials.source.tensors(), source=str(materials.source.path))
    model = parallel.place(model, device)
    loader = materials.loader(ranks.rows(config.batch_size))
    state = TrainState(model=model, optimizers=make_optimizers(model, config), loader=loader.state_dict())
    if ranks.is_first:
        for written in (folder, folder / "checkpoints"):
            clear_unfinished(written)
    if newest:
        load_checkpoint(newest.path, state, ranks)
        loader.load_state_dict(state.loader)
    return state, loader


def _listeners(
    materials: Materials, folder: Path, state: TrainState, pace: Pace, quiet: bool, ranks: Ranks, stack: ExitStack
) -> tuple[list[Listener], Callable[[str], None]]:
    """Open what is told of each record, and a way to say a sentence; nothing and nobody in any process but the first."""
    config = materials.config
    if not ranks.is_first:
        return [], lambda _: None
    listeners: list[Listener] = [stack.enter_context(MetricsFile(folder / "metrics.jsonl", n_done=state.step))]
    if config.tensorboard:
        listeners.append(stack.enter_context(TensorBoard(folder / "tensorboard", n_done=state.step)))
    if quiet:
        return listeners, warnings.warn
    progress = stack.enter_context(ProgressLine(config, n_done=state.step))
    progress.say(*describe_run(materials, folder, state, ranks, pace))
    return [*listeners, progress], progress.say


def _tell(listeners: list[Listener], record: dict[str, Any]) -> None:
    for listener in listeners:
        listener(record)


def _look(state: TrainState, materials: Materials, observers: Mapping[str, Observer], parallel: Parallel) -> dict[str, Any]:
    """Measure, when it is time, what takes a while: the validation loss, the observers' values, and now and then a sample.

    All processes share the first; for the rest the first process has the model to itself, and the others wait.
    """
    config, step, found = materials.config, state.step, dict[str, Any]()
    is_last = step == config.n_steps
    if validates := is_last or step % config.validate_every == 0:
        tokens, n_windows = materials.validation_tokens, config.n_validation_windows
        found["val_loss"] = validation_loss(state.model, tokens, n_window=config.window, max_windows=n_windows, parallel=parallel)
        if not math.isfinite(found["val_loss"]):  # the run stops here, and such a model can say nothing
            return found
    watches = bool(observers) and (is_last or is_watched(step, config))
    samples = validates and config.sample_every > 0 and (is_last or step % config.sample_every == 0)
    if watches or samples:
        model = parallel.whole(state.model)
        if parallel.ranks.is_first:
            found |= observe(step, model, observers) if watches else {}
            found |= {"sample": _sample(model, materials)} if samples else {}
        parallel.ranks.wait()
    return found


def _sample(model: Transformer, materials: Materials) -> str:
    lm = LanguageModel(model, materials.tokenizer)
    pieces = lm.stream(
        materials.prompt, max_new_tokens=200, seed=materials.config.seed, tell=lambda _: None
    )  # may pass the context
    return materials.prompt + "".join(pieces)


def _check_finite(found: Mapping[str, Any], step: int, folder: Path) -> None:
    for name in ("loss", "grad_norm", "val_loss"):
        if not math.isfinite(found.get(name, 0.0)):
            raise TrainingError(
                f"{name} is {found[name]} after step {step}, so training stopped; {_kept(folder)}; try a lower learning rate"
            )


def _kept(folder: Path) -> str:
    newest = Run(folder).latest_checkpoint()
    return f"the checkpoint of step {newest.step} is whole" if newest else "no checkpoint was written yet"
