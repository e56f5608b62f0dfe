"""The learning rate at each step."""

from __future__ import annotations

import math

from cutaway.training.config import TrainConfig

__all__ = ["learning_rate"]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate for step 0, 1, ...: a linear warm-up, then half a cosine towards `min_learning_rate`.

    Source: Radford et al. 2018, section 4.1.
    """
    if step < config.n_warmup_steps:
        return config.learning_rate * (step + 1) / (config.n_warmup_steps + 1)
    n_decay = max(config.n_steps - config.n_warmup_steps, 1)
    progress = min((step - config.n_warmup_steps) / n_decay, 1.0)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * (1 + math.cos(math.pi * progress)) / 2
