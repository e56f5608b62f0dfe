"""Time by the clock, fairly: warmed up, in turn, and by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["timed", "medians_in_turn", "seconds_in_turn", "seconds"]


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls this one and returns how many seconds it took."""

    def time_once() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return time_once


def medians_in_turn(timers: Mapping[str, Callable[[], float]], *, n_rounds: int = 5, n_warmups: int = 1) -> dict[str, float]:
    """Return the median of what each timer returns, in seconds; they run in turn, so that a machine that slows down slows all."""
    times: dict[str, list[float]] = {name: [] for name in timers}
    for round_number in range(n_warmups + n_rounds):
        for name, timer in timers.items():
            time_s = timer()
            if round_number >= n_warmups:
                times[name].append(time_s)
    return {name: statistics.median(measured) for name, measured in times.items()}


def seconds_in_turn(functions: Mapping[str, Callable[[], object]], *, n_rounds: int = 5, n_warmups: int = 1) -> dict[str, float]:
    """Return each function's median time in seconds, measured in turn."""
    timers = {name: timed(function) for name, function in functions.items()}
    return medians_in_turn(timers, n_rounds=n_rounds, n_warmups=n_warmups)


def seconds(function: Callable[[], object], *, n_rounds: int = 5, n_warmups: int = 1) -> float:
    """Return one function's median time in seconds."""
    return seconds_in_turn({"": function}, n_rounds=n_rounds, n_warmups=n_warmups)[""]
