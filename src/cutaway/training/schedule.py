"""What goes by the number of steps done: the learning rate, and when observers are asked."""

from __future__ import annotations

import math

from cutaway.training.config import TrainConfig

__all__ = ["learning_rate", "is_watched"]

_PER_DOUBLING = 4
"""Steps between n and 2 n at which observers are asked: those that a fifth parts."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate for step 0, 1, ...: a linear warm-up, then half a cosine towards `min_learning_rate`.

    Source: Radford et al. 2018, section 4.1.
    """
    if step < config.n_warmup_steps:
        return config.learning_rate * (step + 1) / (config.n_warmup_steps + 1)
    n_decay = max(config.n_steps - config.n_warmup_steps, 1)
    progress = min((step - config.n_warmup_steps) / n_decay, 1.0)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def is_watched(step: int, config: TrainConfig) -> bool:
    """Return whether observers are asked after so many steps: every `watch_every`; without one, at each validation and where steps
    have grown by a fifth, four times from n to 2 n, as what happens early happens fast.
    """
    if config.watch_every is not None:
        return step % config.watch_every == 0
    if step % config.validate_every == 0:
        return True
    nearest = round(_PER_DOUBLING * math.log2(step))
    return step == round(2 ** (nearest / _PER_DOUBLING))
