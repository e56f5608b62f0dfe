"""One seed of an experiment: its random numbers, and a place where what was trained is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from cutaway.experiments.frame.learning import Curves, Recipe, learn
from cutaway.runtime import atomic_path, seeded_generator
from cutaway.weights import save_tensors

__all__ = ["Trial"]

_WEIGHT, _CURVE, _KEPT = "weight.", "curve.", "kept."  # how the names of a file's tensors begin


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an experiment runs with: nothing random comes from elsewhere, and what was learnt is learnt once.

    `folder`, where one is given, keeps each module as soon as it is trained, so that a trial that was stopped goes on from there.
    """

    seed: int
    folder: Path | None = None
    report: Callable[[int, int, str], None] = lambda *_: None
    """Hears how many of how many steps of what is at work are done, and what of."""

    def generator(self, *what: object) -> torch.Generator:
        """Return random numbers of their own for what they are used for, such as ("batch", step): from the seed and these words."""
        words = " ".join(map(str, (self.seed, *what)))
        return seeded_generator(int.from_bytes(hashlib.sha256(words.encode()).digest()[:7]))

    def learn(
        self,
        name: str,
        module: nn.Module,
        loss: Callable[[int], Float[Tensor, ""]],
        recipe: Recipe,
        *,
        adjust: Callable[[], None] = lambda: None,
        watch: Callable[[int], Mapping[str, float]] = lambda _: {},
        watch_every: int = 100,
        keep: Container[int] = (),
    ) -> Curves:
        """Train a module in place, as `learning.learn` does, or take over the weights that were learnt under this name before."""
        file = None if self.folder is None else self.folder / f"{name.replace(' ', '-')}.safetensors"
        if file is not None and file.is_file():
            return _read(file, module)

        def report(n_done: int, n_steps: int, said: str) -> None:
            self.report(n_done, n_steps, f"{name}: {said}")

        curves = learn(module, loss, recipe, adjust=adjust, watch=watch, watch_every=watch_every, keep=keep, report=report)
        if file is not None:
            _write(file, module, curves)
        return curves


def _write(file: Path, module: nn.Module, curves: Curves) -> None:
    tensors = {_WEIGHT + name: value.detach().contiguous() for name, value in module.named_parameters()}
    tensors |= {_CURVE + name: curves[name] for name in curves.points}
    tensors |= {f"{_KEPT}{step}.{name}": value for step, weights in curves.kept.items() for name, value in weights.items()}
    with atomic_path(file) as temporary:
        save_tensors(tensors, temporary)


def _read(file: Path, module: nn.Module) -> Curves:
    """Give a module the weights in a file; raises ValueError where they are another module's."""
    tensors = load_file(file)
    weights, kept = dict(module.named_parameters()), _beginning(tensors, _WEIGHT)
    if {name: value.shape for name, value in kept.items()} != {name: value.shape for name, value in weights.items()}:
        raise ValueError(f"{file} holds the weights of another model: remove it, and its trial trains again")
    for name, value in kept.items():
        weights[name].data.copy_(value)
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
