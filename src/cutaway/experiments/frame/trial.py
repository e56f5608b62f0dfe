"""One seed of an experiment: its random numbers, and a place where what was trained is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.experiments.frame.kept import continue_training, read_training, write_training
from cutaway.experiments.frame.learning import Curves, Progress, Recipe, learn
from cutaway.runtime import seeded_generator

__all__ = ["Training", "Trial"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a module came to its weights: by which recipe, under which code, and in how many seconds of an earlier run."""

    recipe: Mapping[str, Any]
    """Its settings, as values that JSON can hold."""
    sources: str | None
    """The hash of the code that trained."""
    earlier_s: float = 0.0
    """Seconds of training that was taken over."""

    def to_dict(self) -> dict[str, Any]:
        """Return recipe and hash as values that JSON can hold."""
        return {"recipe": dict(self.recipe), "sources": self.sources}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an experiment runs with: nothing random comes from elsewhere, and what was learnt is learnt once.

    `folder`, where one is given, keeps each module as soon as it is trained, so that a trial that was stopped goes on from there.
    """

    seed: int
    folder: Path | None = None
    report: Callable[[int, int, str], None] = lambda *_: None
    """Hears how many of how many steps of what is at work are done, and what of."""
    sources: str | None = None
    """The hash of the experiment's code: what other code began to train is trained from the start."""
    save_every_s: float = 30.0
    """How often what there is of a training is kept."""
    trainings: dict[str, Training] = field(default_factory=dict, init=False)
    """How each module came to its weights, as it was learnt or taken over."""

    def generator(self, *what: object) -> torch.Generator:
        """Return random numbers of their own for what they are used for, such as ("batch", step): from the seed and these words."""
        return seeded_generator(self.seed_for(*what))

    def seed_for(self, *what: object) -> int:
        """Return the seed of `generator(*what)`, for what draws its random numbers itself."""
        words = " ".join(map(str, (self.seed, *what)))
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7])

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
        """Train a module in place, as `learning.learn` does, or take over the weights that were learnt under this name before.

        Now and then, what there is of a training is kept too: once it was stopped, it goes on from there to the same weights, as
        long as `loss` is a function of the step alone. Raises ValueError for weights of another model or another recipe.
        """

        def report(n_done: int, n_steps: int, said: str) -> None:
            self.report(n_done, n_steps, f"{name}: {said}")

        settings = {"adjust": adjust, "watch": watch, "watch_every": watch_every, "keep": keep, "report": report}
        if self.folder is None:
            self.trainings[name] = Training(recipe=asdict(recipe), sources=self.sources)
            return learn(module, loss, recipe, **settings)  # type: ignore[arg-type]
        file, unfinished = (self.folder / f"{name.replace(' ', '-')}{ending}.safetensors" for ending in ("", ".unfinished"))
        if file.is_file():
            progress = read_training(file, module, recipe)
            self.trainings[name] = Training(recipe=asdict(recipe), sources=progress.sources, earlier_s=progress.time_s)
            return progress.curves
        progress = continue_training(unfinished, module, recipe, sources=self.sources)
        self.trainings[name] = Training(recipe=asdict(recipe), sources=self.sources, earlier_s=progress.time_s)

        def save(progress: Progress) -> None:
            write_training(unfinished, module, progress, recipe)

        learn(
            module, loss, recipe, **settings,  # type: ignore[arg-type]
            progress=progress, save=save, save_every_s=self.save_every_s,
        )  # fmt: skip
        write_training(file, module, progress, recipe)
        unfinished.unlink(missing_ok=True)
        return progress.curves
