"""Figures of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutaway.plots import LawPanel, ShareGroup, laws, shares
from cutaway.profiles.comparison import Comparison
from cutaway.profiles.growth import Growth, SizeCost
from cutaway.report import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["profile_figure", "growth_figure", "time_in_words", "rate_in_words"]

_N_CACHED = 1024
_TIMES = (("training step", "step_s"), ("forward pass", "forward_s"))


def profile_figure(comparisons: Sequence[Comparison], *, machine: str) -> Figure:
    """Return how near each program comes to the machine's limit, one group of bars a work; raises ValueError when there is none."""
    groups = [
        ShareGroup(
            title=f"{each.work}: {each.case}",
            values={each.label(name): each.share(name) for name in each.times_s},
            words={
                each.label(name): f"{time_in_words(time_s)}, {rate_in_words(each, name)}" for name, time_s in each.times_s.items()
            },
            ours=[each.label(name) for name in each.ours],
        )
        for each in comparisons
    ]
    return shares(
        groups, title=f"How near to the limits of the machine\n{machine}", x_label="share of the limit measured in the same run"
    )


def time_in_words(time_s: float) -> str:
    """Return a time in three digits.

    >>> time_in_words(0.01342), time_in_words(2.071)
    ('13.4 ms', '2.07 s')
    """
    return f"{1000 * time_s:.3g} ms" if time_s < 0.9995 else f"{time_s:.3g} s" if time_s < 99.95 else format_duration(time_s)


def rate_in_words(comparison: Comparison, name: str) -> str:
    """Return how many units a program does in a second."""
    rate = comparison.per_s(name)
    return f"{format_count(rate) if rate >= 999.5 else f'{rate:.3g}'} {comparison.unit}/s"


def growth_figure(growth: Growth) -> Figure:
    """Return time and memory by length and memory by size, measured points on the lines of the laws."""
    return laws(
        [_times(growth), _memory(growth), _times_by_size(growth), _memory_by_size(growth)],
        title=f"How cost grows: {growth.preset}, one row, float32. Lines: the law; dots: measured",
    )


def _times(growth: Growth) -> LawPanel:
    costs = growth.lengths
    lengths = [float(cost.n_pos) for cost in costs]
    return LawPanel(
        title="Seconds: a n + b n\N{SUPERSCRIPT TWO}",
        x_label="tokens in the row",
        laws={name: (lengths, [getattr(cost, f"law_{field}") for cost in costs]) for name, field in _TIMES},
        measured={name: (lengths, [getattr(cost, field) or 0.0 for cost in costs]) for name, field in _TIMES},
        write_y=time_in_words,
        x_ticks={length: f"{length:,.0f}" for length in lengths},
    )


def _memory(growth: Growth) -> LawPanel:
    costs, config = growth.lengths, growth.law.config
    lengths = [float(cost.n_pos) for cost in costs]
    patterns = [4.0 * config.n_layers * config.n_heads * cost.n_pos**2 for cost in costs]
    return LawPanel(
        title="Memory beside the weights: linear",
        x_label="tokens in the row",
        laws={
            "training step": (lengths, [float(cost.law_step_bytes) for cost in costs]),
            "forward pass": (lengths, [float(cost.law_forward_bytes) for cost in costs]),
            "patterns, if they were kept": (lengths, patterns),
        },
        measured={
            "training step": (lengths, [float(cost.step_bytes or 0) for cost in costs]),
            "forward pass": (lengths, [float(cost.forward_bytes or 0) for cost in costs]),
        },
        write_y=format_bytes,
        x_ticks={length: f"{length:,.0f}" for length in lengths},
    )


def _times_by_size(growth: Growth) -> LawPanel:
    sizes = _by_size(growth)
    counts = [float(size.n_parameters) for size in sizes]
    at = next((cost for cost in growth.lengths if cost.n_pos == _N_CACHED), None)
    seen = {
        name: [getattr(at, field) or 0.0 if at and size.name == growth.preset else 0.0 for size in sizes] for name, field in _TIMES
    }
    return LawPanel(
        title=f"Seconds of {_N_CACHED:,} tokens by size",
        x_label="parameters",
        laws={name: (counts, [getattr(size, f"law_{field}") for size in sizes]) for name, field in _TIMES},
        measured={name: (counts, values) for name, values in seen.items()},
        write_y=time_in_words,
        x_ticks=_size_ticks(sizes),
    )


def _by_size(growth: Growth) -> list[SizeCost]:
    return sorted(growth.sizes, key=lambda size: size.n_parameters)


def _size_ticks(sizes: Sequence[SizeCost]) -> dict[float, str]:
    return {float(size.n_parameters): f"{size.name.removeprefix('gpt2-')}\n{format_count(size.n_parameters)}" for size in sizes}


def _memory_by_size(growth: Growth) -> LawPanel:
    sizes = _by_size(growth)
    counts = [float(size.n_parameters) for size in sizes]
    return LawPanel(
        title="Memory by size, from shapes alone",
        x_label="parameters",
        laws={
            "weights, gradients, AdamW": (counts, [float(size.train_state_bytes) for size in sizes]),
            "weights": (counts, [float(size.weights_bytes) for size in sizes]),
            f"keys and values of {_N_CACHED:,} tokens": (counts, [float(_N_CACHED * size.kv_bytes_a_token) for size in sizes]),
        },
        measured={"weights, gradients, AdamW": (counts, [float(size.measured_train_state_bytes or 0) for size in sizes])},
        write_y=format_bytes,
        x_ticks=_size_ticks(sizes),
    )
