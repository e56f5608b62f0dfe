"""Time by the clock, fairly: warmed up, in turn, and by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["seconds_in_turn", "seconds"]


def seconds_in_turn(functions: Mapping[str, Callable[[], object]], *, n_rounds: int = 5, n_warmups: int = 1) -> dict[str, float]:
    """Return each function's median time in seconds; they run in turn, so that a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(n_warmups + n_rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if round_number >= n_warmups:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in times.items()}


def seconds(function: Callable[[], object], *, n_rounds: int = 5, n_warmups: int = 1) -> float:
    """Return one function's median time in seconds."""
    return seconds_in_turn({"": function}, n_rounds=n_rounds, n_warmups=n_warmups)[""]
