"""Training that knows every observer by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway import training
from cutaway.training import Observer, TrainConfig
from cutaway.watching.observers import WATCHABLE

__all__ = ["train", "resume"]


def train(config: TrainConfig | str, *, observers: Mapping[str, Observer] | None = None, quiet: bool = False) -> Path:
    """Train a model from new weights, `config` being a configuration or a preset's name, and return its run directory.

    `config.watch` names what of the inside is logged with the loss: induction, previous_token, duplicate_token, first_token, copying,
    repetition, icl, attention_entropy, residual_norms, logit_lens, norms. `observers` are functions of one's own, of step and model,
    that return numbers by name; those called "family.label" are drawn in one picture. `config.watch_every` says when they are asked.
    Watching changes nothing of what is learnt. Raises ValueError, before anything is written, for a configuration that cannot work.
    What fails before its first checkpoint leaves no run behind.
    """
    return training.train(config, observers=observers, watchable=WATCHABLE, quiet=quiet)


def resume(folder: str | Path, *, observers: Mapping[str, Observer] | None = None, quiet: bool = False, **changes: Any) -> Path:
    """Go on with a run from its newest checkpoint, watching what it watched or what `changes` say, as `cutaway.training.resume`.

    One's own `observers` are given again. Raises ValueError as that does, and naming config.json for a name there that is not known.
    """
    return training.resume(folder, observers=observers, watchable=WATCHABLE, quiet=quiet, **changes)
