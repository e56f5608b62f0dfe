"""Some rows of both runs: their metric, and the first of their positions that may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS, replacing
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.metrics import Metric
from cutaway.interp.sweep import AnyMetric
from cutaway.interp.sweep.base_run import Prefix
from cutaway.interp.sweep.reading import read_resid
from cutaway.interp.two_runs import TwoRuns, scored
from cutaway.model import Transformer
from cutaway.model.kv_cache import KVCache

__all__ = ["RowsMetric", "RowsToScore", "keys_name"]


@dataclass(frozen=True)
class RowsMetric:
    """The metric of some of all rows."""

    metric: AnyMetric
    rows: Sequence[int]
    lengths: Sequence[int] | None

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """Return the metric of each of these rows from all logits."""
        if isinstance(self.metric, Metric):
            return self.metric.of_rows(logits, self.rows, self.lengths)
        return scored(self.metric, logits)

    def total(
        self, model: Transformer, resid: Float[Tensor, "lane pos d_model"], scale: Float[Tensor, "batch pos 1"] | None
    ) -> Float[Tensor, ""]:
        """Return the sum of the metric over runs of these rows, one after another, from their last residual streams.

        Only the logits that it reads are computed; `scale` is that of ln_final where it is held.
        """
        n_rows, total = len(self.rows), resid.new_zeros(())
        if not isinstance(self.metric, Metric):
            for run in resid.split(n_rows):
                held = NO_HOOKS if scale is None else replacing({"ln_final.scale": scale})
                total = total + scored(self.metric, model.unembed(run, hooks=held)).sum()
            return total
        for i, row in enumerate(self.rows):
            positions = self.metric.positions(resid.shape[1] if self.lengths is None else int(self.lengths[row]))
            read = resid[i::n_rows, positions]
            held = NO_HOOKS if scale is None else replacing({"scale": scale[[i]][:, positions].expand(len(read), -1, -1)})
            total = total + read_resid(model, self.metric, read, row, positions, hooks=held).sum()
        return total


@dataclass(frozen=True, eq=False)
class RowsToScore:
    """Some rows of both runs, and how much of them is computed at once."""

    runs: TwoRuns
    graph: Graph
    metric: RowsMetric
    frozen: Sequence[str]
    """The scales of norms that are held."""
    n_runs: int
    """Of how many runs of all these rows gradients are kept at once."""
    n_positions: int
    """At how many positions senders meet receivers at once."""

    @property
    def start(self) -> int:
        """The first position at which the runs may differ; before it nothing is computed again."""
        return int(self.differing[0])

    @cached_property
    def differing(self) -> Int[Tensor, " kept_pos"]:
        """The positions at which the runs may differ."""
        return (~self.runs.same()).any(0).nonzero()[:, 0]

    def meetings(self) -> Sequence[Int[Tensor, " kept_pos"]]:
        """Return these positions, so many at a time as senders meet receivers at."""
        return list(self.differing.split(self.n_positions)) if len(self.differing) else []

    def prefix(self, n_runs: int) -> KVCache | None:
        """Return what runs of these rows, one after another, read of the positions before the start; None where there are none."""
        if not self.start:
            return None
        config, cache = self.runs.model.config, self.runs.cache
        kv = KVCache(config, n_slots=1, dtype=cache["embed"].dtype, device=cache["embed"].device)
        for kept, part in ((kv.k, keys_name(config)), (kv.v, "v")):
            kept[:] = [cache[f"blocks.{layer}.attn.{part}"].transpose(1, 2) for layer in range(config.n_layers)]
        rows = torch.arange(len(self.runs.tokens), device=cache["embed"].device).repeat(n_runs)
        return Prefix(kv, rows, self.start)


def keys_name(config: ModelConfig) -> str:
    """Return what keys are called as attention compares them."""
    return "rot_k" if config.position == "rotary" else "k"
