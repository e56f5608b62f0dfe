"""Many edited runs at the cost of what each can change: planned, then run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.flops import forward_flops
from cutaway.interp.editing import for_query_heads, row_lengths, run_with_edits
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.provenance import Weights
from cutaway.interp.sites import site_of
from cutaway.interp.sweep.base_run import BaseRun, record_base
from cutaway.interp.sweep.cost import group_flops, lane_bytes
from cutaway.interp.sweep.engine import Group, run_group
from cutaway.interp.sweep.lanes import VALUE_KINDS, Lane, entry_of, lane_of, why_whole
from cutaway.interp.sweep.packing import pack
from cutaway.interp.sweep.reading import read_base, read_group
from cutaway.model import Transformer
from cutaway.ranks import sharing_ranks
from cutaway.report import format_bytes, format_flops
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
        done, naive = (format_flops(flops).removesuffix("/s") for flops in (self.flops, self.naive_flops))
        groups = "1 group" if len(self.groups) == 1 else f"{len(self.groups)} groups"
        lines = [
            f"{n_cells:,} cells ({len(self.variants):,} variants of {len(self.tokens)} rows): {n_lanes:,} run in {groups}, "
            f"{len(self.unchanged):,} change nothing, {len(self.whole) * len(self.tokens):,} run whole",
            f"{done} instead of {naive}: {share:.1f} times fewer; {format_bytes(self.memory_gib * 2**30)} of memory",
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
        dtype = torch.promote_types(self.model.embed.W_E.dtype, torch.float32)
        scores = torch.full((len(self.variants), len(self.tokens)), torch.nan, dtype=dtype, device=self.tokens.device)
        n_done, n_cells = 0, scores.numel()

        def done(n: int) -> None:
            nonlocal n_done
            n_done += n
            if progress is not None and n:
                progress(n_done, n_cells)

        done(self._fill_unchanged(scores))
        waiting: dict[int, dict[int, Tensor]] = {}  # rows of variants whose metric reads all rows at once
        n_changed = Counter(lane.variant for group in self.groups for lane in group.lanes)
        for group in self.groups:
            x = run_group(self.model, self.base, group)
            if isinstance(self.metric, Metric):
                for lane, score in zip(group.lanes, read_group(self.model, self.base, self.metric, group, x), strict=True):
                    scores[lane.variant, lane.row] = score
                done(len(group.lanes))
                continue
            for i, lane in enumerate(group.lanes):
                rows = waiting.setdefault(lane.variant, {})
                rows[lane.row] = x[i]
                if len(rows) == n_changed[lane.variant]:
                    scores[lane.variant] = self._full_metric(waiting.pop(lane.variant))
                    done(len(self.tokens))
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
        apart = [(scores[variant] - self.naive(variant)).abs().max() for variant in drawn]
        return float(torch.stack(apart).max()) if apart else 0.0  # not a number if any is not

    def _of_logits(self, logits: Tensor) -> Tensor:
        values = self.metric(logits, self.base.lengths) if isinstance(self.metric, Metric) else self.metric(logits)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"the metric returned {given}; expected one number a row, shape {tuple(logits.shape[:1])}")
        return values

    def _given_lengths(self) -> tuple[int, ...] | None:
        return None if set(self.base.lengths) == {self.tokens.shape[1]} else self.base.lengths

    def _fill_unchanged(self, scores: Tensor) -> int:
        """Put in the base run's metric where nothing changes, and return of how many cells."""
        if not isinstance(self.metric, Metric):
            changed = {lane.variant for group in self.groups for lane in group.lanes}
            everywhere = sorted({variant for variant, _ in self.unchanged} - changed)
            if everywhere:
                scores[everywhere] = self._full_metric({}).to(scores.dtype)
            return len(everywhere) * len(self.tokens)
        of_row: dict[int, Tensor] = {}
        for variant, row in self.unchanged:
            if row not in of_row:
                of_row[row] = read_base(self.model, self.base, self.metric, row)
            scores[variant, row] = of_row[row]
        return len(self.unchanged)

    def _full_metric(self, rows: dict[int, Tensor]) -> Tensor:
        """Return a metric of full logits, of the base run with some rows' last positions put in."""
        resid = self.base.inputs[-1].clone()
        for row, x in rows.items():
            resid[row, len(resid[row]) - len(x) :] = x
        return self._of_logits(self.model.unembed(resid))


def plan_sweep(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    variants: Iterable[Iterable[Edit]],
    metric: AnyMetric,
    *,
    base_edits: Iterable[Edit] = (),
    lengths: Sequence[int] | Int[Tensor, " batch"] | None = None,
    memory_gib: float | None = None,
) -> SweepPlan:
    """Run the base run and plan the rest: what is reused, what is packed together, what need not run at all.

    Raises ValueError for edits that do not fit, for positions that are not there, for a model in training mode with dropout, and for a
    memory budget too small for the unedited run and one cell.
    """
    given_lengths = row_lengths(model, tokens, lengths)
    sizes = given_lengths or (tokens.shape[1],) * len(tokens)
    variants = list(variants)
    _check(model, tokens, variants, metric, given_lengths)
    listed = [list(variant) for variant in variants]
    flat = [edit for variant in listed for edit in variant] + list(base_edits)
    model, edits = for_query_heads(model, _trusted(flat, Weights.of(model)))
    remaining = iter(edits)
    given = [tuple(next(remaining) for _ in variant) for variant in listed]
    base_given = list(remaining)
    whole = {i: why for i, variant in enumerate(given) if (why := _why_whole(variant, base_given, metric))}
    base = BaseRun(tokens, sizes, tuple(base_given), [], None, {})
    lanes: list[Lane] = []
    unchanged: list[tuple[int, int]] = []
    if len(whole) < len(given):
        with torch.no_grad():
            names = _recorded(model, [edit for i, variant in enumerate(given) if i not in whole for edit in variant])
            base = record_base(model, tokens, edits=base_given, lengths=sizes, names=names)
            lanes, unchanged = _lanes(model, given, metric, base, whole)
    return SweepPlan(
        model=model,
        tokens=tokens,
        variants=tuple(given),
        metric=metric,
        base=base,
        groups=tuple(pack(model, lanes, metric, base, budget=_budget(memory_gib, base, tokens.device))),
        unchanged=tuple(unchanged),
        whole=whole,
        reasons=tuple(_reasons(model, lanes)),
    )


def _check(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    variants: Sequence[object],
    metric: AnyMetric,
    lengths: tuple[int, ...] | None,
) -> None:
    if model.training and model.config.dropout > 0:
        raise ValueError("the model is in training mode, with dropout, so that no two runs are the same: call model.eval() first")
    if any(isinstance(variant, Edit) for variant in variants):
        raise ValueError("each variant is a list of edits: write [[edit], [edit]], not [edit, edit]")
    if isinstance(metric, Metric):
        n_rows, n_pos = tokens.shape
        metric.check(n_rows, n_pos, model.config.d_vocab_out)
    elif lengths is not None:
        raise ValueError("a function of full logits cannot tell where shorter rows end: give a metric of cutaway.metrics")


def _lanes(
    model: Transformer, variants: Sequence[Sequence[Edit]], metric: AnyMetric, base: BaseRun, whole: Collection[int]
) -> tuple[list[Lane], list[tuple[int, int]]]:
    """Return what is run, and the (variant, row) that change nothing."""
    lanes: list[Lane] = []
    unchanged: list[tuple[int, int]] = []
    shared: dict[tuple[int, int], int] = {}
    last_reads = [max(metric.positions(size)) if isinstance(metric, Metric) else size - 1 for size in base.lengths]
    for variant in sorted(set(range(len(variants))) - set(whole)):
        for row, last_read in enumerate(last_reads):
            lane = lane_of(variant, row, variants[variant], base=base, config=model.config, last_read=last_read, shared=shared)
            if lane is None:
                unchanged.append((variant, row))
            else:
                lanes.append(lane)
    return lanes, unchanged


def sweep(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    variants: Iterable[Iterable[Edit]],
    metric: AnyMetric,
    *,
    base_edits: Iterable[Edit] = (),
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
    largest difference is told. In `shared_work` each process runs a part of the variants. Raises ValueError as `plan_sweep` does.

    >>> import cutaway
    >>> from cutaway import edits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> heads = [[edits.zero("blocks.1.attn.z", head=head)] for head in range(8)]
    >>> scores = cutaway.sweep(lm.model, lm.tokens("When Mary and John"), heads, metrics.log_prob(lm.tokens(" went")[0]))
    >>> scores.shape  # variant batch
    torch.Size([8, 1])
    """
    ranks, every = sharing_ranks(), [variant if isinstance(variant, Edit) else list(variant) for variant in variants]
    ranks.check_same("a sweep", lambda: repr((tokens.tolist(), list(map(_said, every)))))
    own = iter(every[ranks.part])  # of neighbours, which often cost alike, each process gets one
    plan = plan_sweep(model, tokens, own, metric, base_edits=base_edits, lengths=lengths, memory_gib=memory_gib)
    scores = plan.run(progress=progress if ranks.is_first else None)
    if verify and ranks.is_first:
        tell(f"{min(verify, len(scores))} variants run whole: the largest difference is {plan.verify(scores, verify):.2g}")
    return ranks.interleaved(scores, len(every))


def _said(variant: Edit | list[Edit]) -> str:
    return str(variant) if isinstance(variant, Edit) else ", ".join(map(str, variant))


def _trusted(edits: Iterable[Edit], weights: Weights) -> list[Edit]:
    """Return edits that say where their values come from only if these are such values still, of the model as it is."""
    return [edit if edit.provenance is None or edit.provenance.holds(edit.value, weights) else replace(edit) for edit in edits]


def _why_whole(variant: Sequence[Edit], base_edits: Sequence[Edit], metric: AnyMetric) -> str | None:
    why = why_whole([*variant, *base_edits])
    if (
        why is None
        and not isinstance(metric, Metric)
        and any(edit.name == "logits" or edit.name.startswith("ln_final") for edit in [*variant, *base_edits])
    ):
        return "a metric that does not say what it reads, with an edit of the unembedding"
    return why


def _recorded(model: Transformer, edits: Sequence[Edit]) -> set[str]:
    """Return the activations that the base run must keep: those that values are compared with, and what enters after attention."""
    names = {
        edit.name for edit in edits if edit.kind in VALUE_KINDS or edit.name == "embed" or entry_of(edit.name, model.config).half
    }
    return names | {f"blocks.{site_of(name).layer}.resid_mid" for name in names if entry_of(name, model.config).half == 1}


def _budget(memory_gib: float | None, base: BaseRun, device: torch.device) -> float:
    """Return the bytes that the base run and a group may take: what is given, or the base run's and a share of what is free."""
    if memory_gib is not None:
        return memory_gib * 2**30
    free = free_memory_gib(device)
    return base.nbytes + 2**30 * (1.0 if free is None else min(1.0, free / 4))


def _reasons(model: Transformer, lanes: Sequence[Lane]) -> list[str]:
    if not model.config.is_causal:
        return ["a bidirectional model: every position sees every other, so that layers are reused and positions are not"]
    n_everywhere = sum(lane.start == 0 for lane in lanes)
    if n_everywhere:
        return [
            f"{n_everywhere} of {len(lanes)} rows are edited from the first position on: layers are reused and positions are not"
        ]
    return []
