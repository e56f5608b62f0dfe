"""Two runs between which edges are scored, some rows at a time, and scores averaged over rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.circuits.budget import Portion, portion_of
from cutaway.interp.circuits.estimates import names_to_record
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.rows import RowsMetric, RowsToScore
from cutaway.interp.metrics import Metric
from cutaway.interp.refactoring import ungroup_heads
from cutaway.interp.sweep import AnyMetric
from cutaway.interp.two_runs import run_two
from cutaway.model import Transformer

__all__ = ["MeanScores", "Pair", "RowSums"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A run that everything starts from, and another that is patched from."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch pos"]
    metric: AnyMetric
    graph: Graph
    frozen: tuple[str, ...]
    """The scales of norms that are held."""
    lengths: Sequence[int] | None
    memory_gib: float | None

    def portion(self) -> Portion:
        """Return how much is computed at once; raises ValueError for a budget too small for one row."""
        n_rows, n_pos = self.tokens.shape
        is_one = not isinstance(self.metric, Metric)
        return portion_of(self.model, self.graph, n_rows=n_rows, n_pos=n_pos, memory_gib=self.memory_gib, is_one=is_one)

    def rows(self) -> Iterator[RowsToScore]:
        """Yield all rows, as many at a time as are computed at once."""
        is_shared = self.model.config.n_kv_heads < self.model.config.n_heads
        model = ungroup_heads(self.model) if is_shared and self.graph.kv == "query-head" else self.model
        portion = self.portion()
        names, other_names = names_to_record(self.graph, model.config, self.frozen)
        for first in range(0, len(self.tokens), portion.n_rows):
            chunk = slice(first, first + portion.n_rows)
            measured = RowsMetric(self.metric, range(len(self.tokens))[chunk], self.lengths)
            runs = run_two(model, self.tokens[chunk], self.other_tokens[chunk], measured, names, other_names=other_names)
            yield RowsToScore(runs, self.graph, measured, self.frozen, n_runs=portion.n_runs, n_positions=portion.n_positions)


class MeanScores(NamedTuple):
    """Scores of edges averaged over rows, and the metric of both runs by row."""

    scores: Float[Tensor, "sender receiver"]
    errors: Float[Tensor, "sender receiver"]
    """The standard errors of the means; NaN for a single row."""
    base: Float[Tensor, " batch"]
    other: Float[Tensor, " batch"]


@dataclass(eq=False)
class RowSums:
    """Scores added up over rows, in float64, as they come."""

    graph: Graph
    total: Float[Tensor, "sender receiver"] = field(init=False)
    squares: Float[Tensor, "sender receiver"] = field(init=False)
    base: list[Float[Tensor, " batch"]] = field(default_factory=list)
    other: list[Float[Tensor, " batch"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.total, self.squares = torch.zeros(2, *self.graph.has_edge.shape, dtype=torch.float64)

    def add(
        self, scores: Float[Tensor, "batch sender receiver"], base: Float[Tensor, " batch"], other: Float[Tensor, " batch"]
    ) -> None:
        """Take the scores of some rows, with the metric of both runs."""
        by_row = scores.cpu().double()
        self.total += by_row.sum(0)
        self.squares += by_row.square().sum(0)
        self.base.append(base)
        self.other.append(other)

    def mean(self) -> MeanScores:
        """Return the means of all rows."""
        base, other = torch.cat(self.base), torch.cat(self.other)
        n, dtype = len(base), base.dtype
        mean = (self.total / n).masked_fill(~self.graph.has_edge, torch.nan)
        variance = (self.squares / n - mean.square()).clamp(min=0) * n / (n - 1) if n > 1 else torch.full_like(mean, torch.nan)
        return MeanScores(mean.to(dtype), (variance / n).sqrt().to(dtype), base, other)
