"""What goes by the number of steps done: the learning rate, the length of windows, when observers are asked."""

from __future__ import annotations

import math

from cutaway.training.config import TrainConfig

__all__ = ["learning_rate", "n_window_tokens", "is_watched"]

_PER_DOUBLING = 4
"""Steps between n and 2 n at which observers are asked: those that a fifth parts."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate for step 0, 1, ...: a linear warm-up, then half a cosine or a line to `min_learning_rate`.

    Source of the cosine: Radford et al. 2018, section 4.1.
    """
    if step < config.n_warmup_steps:
        return config.learning_rate * (step + 1) / (config.n_warmup_steps + 1)
    n_decay = max(config.n_steps - config.n_warmup_steps, 1)
    progress = min((step - config.n_warmup_steps) / n_decay, 1.0)
    left = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


def n_window_tokens(step: int, config: TrainConfig) -> int:
    """Return how many tokens the windows of step 0, 1, ... have: from `n_first_window`, twice as many after each equal stretch.

    Source of beginning with short ones: Press et al. 2021, "Shortformer".
    """
    if config.n_first_window is None:
        return config.window
    n_doublings = (config.window // config.n_first_window).bit_length() - 1
    n_done = min(step * (n_doublings + 1) // config.n_steps, n_doublings)
    return config.n_first_window << n_done


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
