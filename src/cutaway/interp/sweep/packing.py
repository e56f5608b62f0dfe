"""Lanes put into groups: rows enough for matrix products to be fast, few positions for nothing, no more memory than allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from cutaway.interp.metrics import Metric
from cutaway.interp.sweep.base_run import BaseRun
from cutaway.interp.sweep.cost import lane_bytes
from cutaway.interp.sweep.engine import Group
from cutaway.interp.sweep.lanes import Lane
from cutaway.model import Transformer

__all__ = ["pack"]

_N_TOKENS = 1024
"""Of how many tokens a group is at most: more does not make matrix products faster, and what lies between them leaves the cache."""
_WASTE = 0.15
"""How many positions more may be computed, of those needed, to run lanes that start near each other together."""


def pack(
    model: Transformer, lanes: Sequence[Lane], metric: Metric | Callable[[Tensor], Tensor], base: BaseRun, *, budget: float
) -> list[Group]:
    """Return the lanes in groups that start at one position each; raises ValueError for a budget too small for one lane."""
    return [
        group
        for bucket in _buckets(sorted(lanes, key=lambda lane: (lane.start, lane.end)))
        for group in _cut(model, bucket, metric, base, budget=budget)
    ]


def _buckets(lanes: Sequence[Lane]) -> list[list[Lane]]:
    """Split lanes, ordered by their start, where going on from the earliest of a bucket would waste too much."""
    buckets: list[list[Lane]] = []
    needed = 0
    for lane in lanes:
        size = lane.end - lane.start
        if buckets:
            first = buckets[-1][0].start
            end = max(buckets[-1][-1].end, lane.end)
            total = (end - first) * (len(buckets[-1]) + 1)
            if total <= (1 + _WASTE) * (needed + size):
                buckets[-1].append(lane)
                needed += size
                continue
        buckets.append([lane])
        needed = size
    return buckets


def _cut(
    model: Transformer, lanes: Sequence[Lane], metric: Metric | Callable[[Tensor], Tensor], base: BaseRun, *, budget: float
) -> list[Group]:
    lanes = sorted(lanes, key=lambda lane: lane.entry)
    start, end = min(lane.start for lane in lanes), max(lane.end for lane in lanes)
    n_last = end - start
    if isinstance(metric, Metric):
        n_last = min(n_last, end - min(min(metric.positions(base.lengths[lane.row])) for lane in lanes))
    whole = Group(tuple(lanes), start, end, n_last)
    each = lane_bytes(model, whole)
    left = budget - base.nbytes
    if each > left:
        raise ValueError(
            f"the unedited run and one cell take {(base.nbytes + each) / 2**30:.3g} GiB and the budget is {budget / 2**30:.3g}: "
            "give a larger memory_gib, or fewer tokens"
        )
    n = max(1, min(int(left // each), _N_TOKENS // (end - start)))
    return [replace(whole, lanes=tuple(lanes[i : i + n])) for i in range(0, len(lanes), n)]
