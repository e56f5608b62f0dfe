"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from cutaway.data import Loader, ShardLoader, TokenArray, validation_batches
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runs import Run
from cutaway.runtime import peak_memory_gib, pick_device, seeded_generator
from cutaway.training.checkpoint import TrainState, clear_unfinished, load_checkpoint, save_checkpoint
from cutaway.training.interrupt import stop_request
from cutaway.training.log import Listener, MetricsFile, TensorBoard
from cutaway.training.observers import Observer, observe
from cutaway.training.optimizer import make_optimizer
from cutaway.training.progress import ProgressLine, describe_run
from cutaway.training.schedule import is_watched, learning_rate
from cutaway.training.setup import Materials
from cutaway.training.step import TrainStep, next_token_loss
from cutaway.views import without_dropout
from cutaway.weights import assemble

__all__ = ["TrainingError", "run_training", "validation_loss"]


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved before is whole."""


def run_training(materials: Materials, folder: Path, *, observers: Mapping[str, Observer], quiet: bool = False) -> None:
    """Train in `folder`, where nobody else does, from its newest checkpoint, or from new weights, to the last step.

    Raises TrainingError when the loss is no longer finite, and KeyboardInterrupt, after saving, when asked to stop.
    """
    config, device = materials.config, pick_device(materials.config.device)
    with ExitStack() as stack:
        state, loader = _start(materials, folder, device)
        started = time.perf_counter() - state.time_s
        listeners, tell = _listeners(materials, folder, state, device, quiet, stack)
        take_step = TrainStep(state.model, state.optimizer, config, tell=tell)
        stop = stack.enter_context(stop_request())
        stack.enter_context(torch.enable_grad())  # whatever mode the caller is in
        stack.enter_context(torch.random.fork_rng())  # dropout is seeded step by step; the caller's randomness stays
        if state.step == 0:
            _tell(listeners, {"step": 0, "time_s": 0.0, **_look(state, materials, observers)})
            save_checkpoint(state, folder / "checkpoints")
        n_timed, timed_s = 0, 0.0
        while state.step < config.n_steps and not stop.is_set:
            torch.manual_seed((config.seed * 1_000_003 + state.step) % 2**63)
            rate = learning_rate(state.step, config)
            step_started = time.perf_counter()
            batches = [loader.next_batch(device) for _ in range(config.n_accumulate)]
            loss, grad_norm = take_step(batches, learning_rate=rate)
            n_timed, timed_s = n_timed + 1, timed_s + time.perf_counter() - step_started
            state.step, state.loader, state.time_s = state.step + 1, loader.state_dict(), time.perf_counter() - started
            record = {
                "step": state.step,
                "tokens": state.step * config.n_tokens_per_step,
                "loss": loss,
                "lr": rate,
                "grad_norm": grad_norm,
                "tokens_per_s": n_timed * config.n_tokens_per_step / timed_s,
                "time_s": state.time_s,
            }
            _check_finite(record, folder)
            seen = _look(state, materials, observers)
            _check_finite(seen | {"step": state.step}, folder)
            if seen or state.step % config.log_every == 0:
                _tell(listeners, record | seen)
                n_timed, timed_s = 0, 0.0
            if state.step == config.n_steps or state.step % config.save_every == 0:
                save_checkpoint(state, folder / "checkpoints")
        if state.step < config.n_steps:
            save_checkpoint(state, folder / "checkpoints")
            command = f"cutaway train --resume {shlex.quote(str(folder))}"
            raise KeyboardInterrupt(f"stopped and saved after step {state.step}; go on by `{command}`")


_MOST_LOGITS = 2**24
"""How many to hold at once when validating: 64 MiB of them."""


def validation_loss(
    model: Transformer,
    tokens: TokenArray,
    *,
    n_window: int | None = None,
    batch_size: int | None = None,
    max_windows: int | None = None,
) -> float:
    """Return the mean loss in nats a token over windows that tile `tokens`, or `max_windows` of them.

    A window has `n_window` tokens, the whole context unless given.
    """
    n_window = n_window or model.config.n_ctx
    batch_size = batch_size or max(1, min(64, _MOST_LOGITS // (n_window * model.config.d_vocab_out)))
    total, n_tokens = 0.0, 0
    device = model.embed.W_E.device
    model = without_dropout(model)
    with torch.inference_mode():
        for inputs, targets in validation_batches(tokens, batch_size=batch_size, n_ctx=n_window, max_windows=max_windows):
            loss = next_token_loss(model, inputs.to(device), targets.to(device))
            total, n_tokens = total + loss.item() * targets.numel(), n_tokens + targets.numel()
    return total / n_tokens


def _start(materials: Materials, folder: Path, device: torch.device) -> tuple[TrainState, Loader | ShardLoader]:
    config = materials.config
    newest = Run(folder).latest_checkpoint()
    if materials.source is None or newest:
        model = Transformer(config.model, generator=seeded_generator(config.seed))
    else:
        model = assemble(config.model, materials.source.tensors(), source=str(materials.source.path))
    model = model.to(device).train()
    loader = materials.loader()
    state = TrainState(model=model, optimizer=make_optimizer(model, config), loader=loader.state_dict())
    clear_unfinished(folder / "checkpoints")
    if newest:
        load_checkpoint(newest.path, state)
        loader.load_state_dict(state.loader)
    return state, loader


def _listeners(
    materials: Materials, folder: Path, state: TrainState, device: torch.device, quiet: bool, stack: ExitStack
) -> tuple[list[Listener], Callable[[str], None]]:
    """Open what is told of each record, and a way to say a sentence."""
    config = materials.config
    listeners: list[Listener] = [stack.enter_context(MetricsFile(folder / "metrics.jsonl", n_done=state.step))]
    if config.tensorboard:
        listeners.append(stack.enter_context(TensorBoard(folder / "tensorboard", n_done=state.step)))
    if quiet:
        return listeners, warnings.warn
    progress = stack.enter_context(ProgressLine(config, n_done=state.step, memory_gib=lambda: peak_memory_gib(device)))
    progress.say(*describe_run(materials, folder, state, device))
    return [*listeners, progress], progress.say


def _tell(listeners: list[Listener], record: dict[str, Any]) -> None:
    for listener in listeners:
        listener(record)


def _look(state: TrainState, materials: Materials, observers: Mapping[str, Observer]) -> dict[str, Any]:
    """Measure, when it is time, what takes a while: the validation loss, the observers' values, and now and then a sample."""
    config, step, found = materials.config, state.step, dict[str, Any]()
    is_last = step == config.n_steps
    if validates := is_last or step % config.validate_every == 0:
        tokens, n_windows = materials.validation_tokens, config.n_validation_windows
        found["val_loss"] = validation_loss(state.model, tokens, n_window=config.window, max_windows=n_windows)
        if not math.isfinite(found["val_loss"]):  # the run stops here, and such a model can say nothing
            return found
    if observers and (is_last or is_watched(step, config)):
        found |= observe(step, state.model, observers)
    if validates and config.sample_every and (is_last or step % config.sample_every == 0):
        lm = LanguageModel(state.model, materials.tokenizer)
        pieces = lm.stream(materials.prompt, max_new_tokens=200, seed=config.seed, tell=lambda _: None)  # may pass the context
        found["sample"] = materials.prompt + "".join(pieces)
    return found


def _check_finite(record: Mapping[str, Any], folder: Path) -> None:
    for name in ("loss", "grad_norm", "val_loss"):
        if not math.isfinite(record.get(name, 0.0)):
            newest = Run(folder).latest_checkpoint()
            kept = f"the checkpoint of step {newest.step} is whole" if newest else "no checkpoint was written yet"
            raise TrainingError(
                f"{name} is {record[name]} after step {record['step']}, so training stopped; {kept}; try a lower learning rate"
            )
