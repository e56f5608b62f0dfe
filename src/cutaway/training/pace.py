"""How fast a run goes, beside what its devices could do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from cutaway.flops import product_flops_per_s, training_flops
from cutaway.ranks import Ranks
from cutaway.runtime import peak_memory_gib
from cutaway.training.config import TrainConfig

__all__ = ["Pace"]


class Pace:
    """Tokens and operations a second of all processes together, over the time since they were last asked for but for `looking`.

    Operations are those that the model asks for, beside the most that products of square matrices reach on these devices, all of them
    at once, in the dtype that the run computes in. All processes must begin it together.
    """

    def __init__(self, config: TrainConfig, device: torch.device, ranks: Ranks, *, dtype: torch.dtype) -> None:
        self.device = device
        self._model, self._n_tokens_per_step = config.model, config.n_tokens_per_step
        ranks.wait()  # devices that share a machine share what it can do
        (self.peak_flops_per_s,) = ranks.total(_most_flops_per_s(dtype, device, torch.get_num_threads(), ranks.n))
        if device.type == "cuda":  # what came before, the measuring too, is not of this run
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        self.begin()

    def count_step(self, n_pos: int) -> None:
        """Count a step with windows of `n_pos`."""
        self._n_steps += 1
        self._flops += self._n_tokens_per_step / n_pos * training_flops(self._model, n_pos)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Leave out the time of what is no step: validating, sampling, saving."""
        started = time.perf_counter()
        yield
        self._looked_s += time.perf_counter() - started

    def figures(self) -> dict[str, float]:
        """Return tokens and operations a second, their share of the most, and the most memory in GiB; the next begin from here."""
        time_s = time.perf_counter() - self._started - self._looked_s
        tokens_per_s, flops_per_s = self._n_steps * self._n_tokens_per_step / time_s, self._flops / time_s
        self.begin()
        return {
            "tokens_per_s": tokens_per_s,
            "flops_per_s": flops_per_s,
            "share_of_peak": flops_per_s / self.peak_flops_per_s,
            "memory_gib": peak_memory_gib(self.device),
        }

    def begin(self) -> None:
        """Begin to count from here."""
        self._n_steps, self._flops, self._looked_s, self._started = 0, 0.0, 0.0, time.perf_counter()


@cache
def _most_flops_per_s(dtype: torch.dtype, device: torch.device, n_threads: int, n_ranks: int) -> float:  # noqa: ARG001
    """Measure the most of a device once for many runs; with threads and processes of another number it is another."""
    return product_flops_per_s(dtype, device)
