"""Runs of circuits counted as they are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.sweep import AnyMetric

__all__ = ["Score", "Counter"]

Score = Callable[[Bool[Tensor, "sender receiver"]], Float[Tensor, " batch"]]
"""The metric of each row with some edges kept."""


@dataclass
class Counter:
    """How many of so many runs are done, told to whoever asks for progress."""

    n_runs: int
    progress: Callable[[int, int], None] | None
    n_done: int = 0

    def counting(self, runs: CircuitRuns, metric: AnyMetric) -> Score:
        """Return the function that runs a circuit and counts it."""

        def score(kept: Bool[Tensor, "sender receiver"]) -> Float[Tensor, " batch"]:
            found = runs.metric(kept, metric).cpu()
            self.n_done += 1
            if self.progress is not None:
                self.progress(self.n_done, self.n_runs)
            return found

        return score
