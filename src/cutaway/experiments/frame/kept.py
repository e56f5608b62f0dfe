"""A training as a file: weights, curves, recipe and time, and what the optimizer goes on with where it is not whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cutaway.experiments.frame.learning import Curves, Progress, Recipe
from cutaway.runtime import atomic_path
from cutaway.values import shortened
from cutaway.weights import save_tensors

__all__ = ["continue_training", "read_training", "write_training"]

_WEIGHT, _CURVE, _KEPT, _MOMENT = "weight.", "curve.", "kept.", "moment."  # how the names of a file's tensors begin


def write_training(file: Path, module: nn.Module, progress: Progress, recipe: Recipe) -> None:
    """Write a module's weights and how they came to be."""
    tensors = {_WEIGHT + name: value.detach().contiguous() for name, value in module.named_parameters()}
    tensors |= {_CURVE + name: progress.curves[name] for name in progress.curves.points}
    tensors |= {f"{_KEPT}{step}.{name}": value for step, weights in progress.curves.kept.items() for name, value in weights.items()}
    tensors |= {_MOMENT + name: value for name, value in progress.moments.items()}
    about = {"recipe": asdict(recipe), "n_done": progress.n_done, "time_s": progress.time_s, "sources": progress.sources}
    with atomic_path(file) as temporary:
        save_tensors(tensors, temporary, metadata={"training": json.dumps(about)})


def read_training(file: Path, module: nn.Module, recipe: Recipe) -> Progress:
    """Give a module the weights in a file; raises ValueError where they are another model's or were trained by another recipe."""
    tensors, about = _open(file)
    there = about["recipe"]
    if there != asdict(recipe):
        differing = [name for name, value in asdict(recipe).items() if there.get(name) != value]
        said = ", ".join(f"{name} {shortened(there.get(name))}, not {shortened(getattr(recipe, name))}" for name in differing)
        raise ValueError(f"{file} was trained by another recipe ({said}): remove it, and its trial trains again")
    weights, kept = dict(module.named_parameters()), _beginning(tensors, _WEIGHT)
    if {name: value.shape for name, value in kept.items()} != {name: value.shape for name, value in weights.items()}:
        raise ValueError(f"{file} holds the weights of another model: remove it, and its trial trains again")
    for name, value in kept.items():
        weights[name].data.copy_(value)
    return Progress(
        n_done=int(about["n_done"]),
        curves=_curves(tensors),
        moments=_beginning(tensors, _MOMENT),
        time_s=float(about["time_s"]),
        sources=about["sources"],
    )


def continue_training(file: Path, module: nn.Module, recipe: Recipe, *, sources: str | None) -> Progress:
    """Take up a training that was stopped, or begin: where there is none, or other code or another recipe began it."""
    if file.is_file():
        about = _open(file)[1]
        if about["recipe"] == asdict(recipe) and about["sources"] == sources:
            return read_training(file, module, recipe)
    return Progress(sources=sources)


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors, and what it says of the training; raises ValueError for one that is damaged or says nothing."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["training"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, and its trial trains again") from None


def _curves(tensors: Mapping[str, Tensor]) -> Curves:
    curves = Curves()
    for name, (steps, values) in _beginning(tensors, _CURVE).items():
        curves.points[name] = (steps.long().tolist(), values.tolist())
    for full_name, value in _beginning(tensors, _KEPT).items():
        step, _, name = full_name.partition(".")
        curves.kept.setdefault(int(step), {})[name] = value
    curves.kept = dict(sorted(curves.kept.items()))
    return curves


def _beginning(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without the beginning."""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
