"""Many edited runs at the cost of what each can change: planned, then run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.editing import for_query_heads, hooks_of_run, run_with_edits
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.sites import site_of
from cutaway.interp.sweep.base_run import BaseRun, record_base
from cutaway.interp.sweep.cost import forward_flops, group_flops, lane_bytes
from cutaway.interp.sweep.engine import Group, run_group
from cutaway.interp.sweep.lanes import Lane, entry_of, lane_of, why_whole
from cutaway.interp.sweep.packing import pack
from cutaway.interp.sweep.reading import read_base, read_group
from cutaway.model import Transformer
from cutaway.report import format_count
from cutaway.runtime import free_memory_gib

__all__ = ["AnyMetric", "SweepPlan", "plan_sweep", "sweep"]

AnyMetric = Metric | Callable[[Tensor], Tensor]
"""A metric that says what it reads, or any function of full logits, "batch pos d_vocab" to "batch"."""


@dataclass(frozen=True)
class SweepPlan:
    """How a sweep will be run; printed, it says what is reused and why not more."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    variants: tuple[tuple[Edit, ...], ...]
    metric: AnyMetric
    base: BaseRun
    groups: tuple[Group, ...]
    """Rows of variants that run together, from the layer and position where each first differs."""
    unchanged: tuple[tuple[int, int], ...]
    """(variant, row) whose edits change nothing that is read: they have the base run's metric."""
    whole: dict[int, str]
    """Variants that run through the whole model, and why."""
    reasons: tuple[str, ...]
    """Why positions are not reused, where they are not."""

    @property
    def flops(self) -> float:
        """Floating-point operations of the sweep, the base run included."""
        n_rows, n_pos = self.tokens.shape
        n_whole = 1 + len(self.whole)
        return sum(group_flops(self.model.config, group) for group in self.groups) + n_whole * n_rows * forward_flops(
            self.model.config, n_pos
        )

    @property
    def naive_flops(self) -> float:
        """Floating-point operations of one forward pass for each variant."""
        n_rows, n_pos = self.tokens.shape
        return len(self.variants) * n_rows * forward_flops(self.model.config, n_pos)

    @property
    def memory_gib(self) -> float:
        """Memory of the base run and of the largest group."""
        largest = max((len(group.lanes) * lane_bytes(self.model, group) for group in self.groups), default=0)
        return (self.base.nbytes + largest) / 2**30

    def __str__(self) -> str:
        n_cells = len(self.variants) * len(self.tokens)
        n_lanes = sum(len(group.lanes) for group in self.groups)
        share = self.naive_flops / self.flops
        lines = [
            f"{n_cells:,} cells ({len(self.variants):,} variants of {len(self.tokens)} rows): {n_lanes:,} run in {len(self.groups)} "
            f"groups, {len(self.unchanged):,} change nothing, {len(self.whole) * len(self.tokens):,} run whole",
            f"{format_count(self.flops)}FLOP instead of {format_count(self.naive_flops)}FLOP: {share:.1f} times fewer; "
            f"{self.memory_gib:.2f} GiB",
        ]
        lines += [
            f"positions {group.start} to {group.end - 1}: {len(group.lanes)} rows, from layer {group.lanes[0].entry.layer}"
            for group in self.groups[:8]
        ]
        lines += [f"... and {len(self.groups) - 8} groups more"] if len(self.groups) > 8 else []
        lines += list(self.reasons)
        lines += [f"{n} variants run whole: {why}" for why, n in Counter(self.whole.values()).items()]
        return "\n".join(lines)

    @torch.no_grad()
    def run(self, *, progress: Callable[[int, int], None] | None = None) -> Float[Tensor, "variant batch"]:
        """Return the metric of every variant and row.

        `progress` is called with how many cells are done of how many; what it raises ends the sweep, and nothing is left behind.
        """
        scores = torch.full(
            (len(self.variants), len(self.tokens)), torch.nan, dtype=self.base.inputs[0].dtype, device=self.tokens.device
        )
        n_done, n_cells = 0, scores.numel()
        finals: dict[int, dict[int, Tensor]] = {}

        def done(n: int) -> None:
            nonlocal n_done
            n_done += n
            if progress is not None:
                progress(n_done, n_cells)

        self._fill_unchanged(scores)
        done(len(self.unchanged))
        for group in self.groups:
            x = run_group(self.model, self.base, group)
            if isinstance(self.metric, Metric):
                for lane, score in zip(group.lanes, read_group(self.model, self.base, self.metric, group, x), strict=True):
                    scores[lane.variant, lane.row] = score
            else:
                for i, lane in enumerate(group.lanes):
                    finals.setdefault(lane.variant, {})[lane.row] = x[i]
            done(len(group.lanes))
        for variant, rows in finals.items():
            scores[variant] = self._full_metric(rows)
        for variant in self.whole:
            scores[variant] = self.naive(variant)
            done(len(self.tokens))
        return scores

    @torch.no_grad()
    def naive(self, variant: int) -> Float[Tensor, " batch"]:
        """Return the metric of one variant from one whole run with its edits."""
        edits = [*self.base.edits, *self.variants[variant]]
        return self._of_logits(run_with_edits(self.model, self.tokens, edits, lengths=self._given_lengths()))

    def verify(self, scores: Float[Tensor, "variant batch"], n: int, *, seed: int = 0) -> float:
        """Return the largest difference between `scores` and whole runs of `n` variants drawn at random."""
        drawn = random.Random(seed).sample(range(len(self.variants)), min(n, len(self.variants)))
        return max((float((scores[variant] - self.naive(variant)).abs().max()) for variant in drawn), default=0.0)

    def _of_logits(self, logits: Tensor) -> Tensor:
        values = self.metric(logits, self.base.lengths) if isinstance(self.metric, Metric) else self.metric(logits)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"the metric returned {given}; expected one number a row, shape {tuple(logits.shape[:1])}")
        return values

    def _given_lengths(self) -> tuple[int, ...] | None:
        return None if set(self.base.lengths) == {self.tokens.shape[1]} else self.base.lengths

    def _fill_unchanged(self, scores: Tensor) -> None:
        if not self.unchanged:
            return
        functions = {
            name: hooks
            for name, hooks in hooks_of_run(self.model, self.tokens, self.base.edits, lengths=self._given_lengths()).items()
            if site_of(name).layer is None and not name.endswith("embed")
        }
        if isinstance(self.metric, Metric):
            rows = {row for _, row in self.unchanged}
            of_row = {row: read_base(self.model, self.base, self.metric, row, functions) for row in rows}
            for variant, row in self.unchanged:
                scores[variant, row] = of_row[row]
            return
        everywhere = {variant for variant, _ in self.unchanged} - {lane.variant for group in self.groups for lane in group.lanes}
        if everywhere:
            scores[list(everywhere)] = self._full_metric({})

    def _full_metric(self, rows: dict[int, Tensor]) -> Tensor:
        """Return a metric of full logits, of the base run with some rows' last positions put in."""
        resid = self.base.inputs[-1].clone()
        for row, x in rows.items():
            resid[row, len(resid[row]) - len(x) :] = x
        return self._of_logits(self.model.unembed(resid))


def plan_sweep(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    variants: Sequence[Sequence[Edit]],
    metric: AnyMetric,
    *,
    base_edits: Sequence[Edit] = (),
    lengths: Sequence[int] | Int[Tensor, " batch"] | None = None,
    memory_gib: float | None = None,
) -> SweepPlan:
    """Run the base run and plan the rest: what is reused, what is packed together, what need not run at all.

    Raises ValueError for edits that do not fit, for positions that are not there, and for a memory budget too small for one cell.
    """
    n_rows, n_pos = tokens.shape
    sizes = tuple([n_pos] * n_rows if lengths is None else map(int, lengths))
    if len(sizes) != n_rows or not all(1 <= size <= n_pos for size in sizes):
        raise ValueError(f"lengths are {list(sizes)}; expected one for each of the {n_rows} rows, 1 to {n_pos}")
    original = model
    flat = [edit for variant in variants for edit in variant] + list(base_edits)
    model, edits = for_query_heads(model, [replace(edit, tokens=_source(edit, original)) for edit in flat])
    remaining = iter(edits)
    given = [tuple(next(remaining) for _ in variant) for variant in variants]
    base_given = list(remaining)
    whole = {i: why for i, variant in enumerate(given) if (why := _why_whole(variant, base_given, metric))}
    with torch.no_grad():
        names = _recorded(model, {edit.name for i, variant in enumerate(given) if i not in whole for edit in variant})
        base = record_base(model, tokens, edits=base_given, lengths=sizes, names=names)
        lanes, unchanged = [], []
        shared: dict[tuple[int, int], int] = {}
        last_reads = [max(metric.positions(size)) if isinstance(metric, Metric) else n_pos - 1 for size in sizes]
        for variant, row in ((i, row) for i in range(len(given)) if i not in whole for row in range(n_rows)):
            lane = lane_of(variant, row, given[variant], base=base, config=model.config, last_read=last_reads[row], shared=shared)
            if lane is None:
                unchanged.append((variant, row))
            else:
                lanes.append(lane)
    budget = _budget(memory_gib, tokens.device)
    groups = pack(model, lanes, metric, base, budget=budget)
    return SweepPlan(
        model=model,
        tokens=tokens,
        variants=tuple(given),
        metric=metric,
        base=base,
        groups=tuple(groups),
        unchanged=tuple(unchanged),
        whole=whole,
        reasons=tuple(_reasons(model, lanes)),
    )


def sweep(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    variants: Sequence[Sequence[Edit]],
    metric: AnyMetric,
    *,
    base_edits: Sequence[Edit] = (),
    lengths: Sequence[int] | Int[Tensor, " batch"] | None = None,
    memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    verify: int = 0,
    tell: Callable[[str], None] = print,
) -> Float[Tensor, "variant batch"]:
    """Return a metric of every row under every variant, a list of edits each: the same numbers as one run for each, sooner.

    An edit at a layer and position changes nothing before them, so each variant goes on from the unedited run there; what computes the
    same layer is computed together, and only the logits that the metric reads. `base_edits` are applied in every run, the unedited one
    included. `lengths` are the rows' tokens where they are filled up on the right. `verify` variants are run whole as well, and the
    largest difference is told. Raises ValueError as `plan_sweep` does.

    >>> heads = [[edits.zero("blocks.1.attn.z", head=head)] for head in range(4)]  # doctest: +SKIP
    >>> sweep(lm.model, lm.tokens("When Mary and John"), heads, metrics.log_prob(lm.tokens(" went")[0, 0]))  # doctest: +SKIP
    """
    plan = plan_sweep(model, tokens, variants, metric, base_edits=base_edits, lengths=lengths, memory_gib=memory_gib)
    scores = plan.run(progress=progress)
    if verify:
        tell(f"{min(verify, len(variants))} variants run whole: the largest difference is {plan.verify(scores, verify):.2g}")
    return scores


def _source(edit: Edit, model: Transformer) -> object:
    """Return the tokens of the run that a patch comes from if that was a run of this model."""
    return edit.tokens if edit.tokens is not None and edit.tokens[0] is model else None


def _why_whole(variant: Sequence[Edit], base_edits: Sequence[Edit], metric: AnyMetric) -> str | None:
    why = why_whole([*variant, *base_edits])
    if (
        why is None
        and not isinstance(metric, Metric)
        and any(edit.name == "logits" or edit.name.startswith("ln_final") for edit in variant)
    ):
        return "a metric that does not say what it reads, with an edit of the unembedding"
    return why


def _recorded(model: Transformer, names: set[str]) -> set[str]:
    """Return the activations that the base run must keep: those that are edited, and what is summed after them."""
    return names | {f"blocks.{site_of(name).layer}.resid_mid" for name in names if entry_of(name, model.config).half == 1}


def _budget(memory_gib: float | None, device: torch.device) -> float:
    if memory_gib is not None:
        return memory_gib * 2**30
    free = free_memory_gib(device)
    return 2**30 * (1.0 if free is None else min(1.0, free / 4))


def _reasons(model: Transformer, lanes: Sequence[Lane]) -> list[str]:
    if not model.config.is_causal:
        return ["a bidirectional model: every position sees every other, so that layers are reused and positions are not"]
    n_everywhere = sum(lane.start == 0 for lane in lanes)
    if n_everywhere:
        return [
            f"{n_everywhere} of {len(lanes)} rows are edited from the first position on: layers are reused and positions are not"
        ]
    return []
