"""Two runs between which edges are scored, some rows at a time, and scores averaged over rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.cache import ActivationCache
from cutaway.interp.circuits.ablated import Ablated
from cutaway.interp.circuits.budget import Portion, portion_of
from cutaway.interp.circuits.estimates import names_to_record
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.rows import RowsMetric, RowsToScore
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.metrics import Metric
from cutaway.interp.refactoring import ungroup_heads
from cutaway.interp.running import run_with_cache
from cutaway.interp.sweep import AnyMetric
from cutaway.interp.two_runs import TwoRuns, run_two, scored
from cutaway.model import Transformer

__all__ = ["MeanScores", "Pair", "RowSums"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A run that everything starts from, and what senders write in its place: in another run, or when they are ablated."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch pos"]
    metric: AnyMetric
    graph: Graph
    frozen: tuple[str, ...]
    """The scales of norms that are held."""
    lengths: Sequence[int] | None
    memory_gib: float | None
    ablated: Ablated | None = None
    """What senders write instead; None for what they write in the run of the other tokens."""

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
            if self.ablated is None:
                runs = run_two(model, self.tokens[chunk], self.other_tokens[chunk], measured, names, other_names=other_names)
            else:
                runs = self._beside_ablated(model, chunk, measured, names, self.ablated.part(chunk, 0))
            yield RowsToScore(runs, self.graph, measured, self.frozen, n_runs=portion.n_runs, n_positions=portion.n_positions)

    def _beside_ablated(
        self, model: Transformer, rows: slice, metric: RowsMetric, names: Collection[str], ablated: Ablated
    ) -> TwoRuns:
        """Return a run of some rows, and beside it what senders write when ablated, as if it were written in a run of no tokens."""
        tokens = self.tokens[rows]
        nowhere = torch.full_like(tokens, -1)  # no position reads the same
        logits, cache = run_with_cache(model, tokens, sorted(names))
        assert logits is not None
        written = {name: x.expand(*tokens.shape, *x.shape[2:]) for name, x in ablated.by_name().items()}
        runs = CircuitRuns(self.model, tokens, self.graph, ablated)
        n_pos = tokens.shape[1]
        return TwoRuns(
            model=model,
            tokens=tokens,
            other_tokens=nowhere,
            lengths=tuple([n_pos] * len(tokens) if metric.lengths is None else [int(metric.lengths[row]) for row in metric.rows]),
            pairs=(tuple((pos, pos) for pos in range(n_pos)),) * len(tokens),
            cache=cache,
            other_cache=ActivationCache(written, model=model, tokens=nowhere, derives="nothing"),
            base=scored(metric, logits),
            other=runs.metric(runs.nothing, metric),
            other_latents={layer: x.expand(*tokens.shape, -1) for layer, x in ablated.latents.items()},
        )


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
