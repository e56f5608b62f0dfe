"""Edge scores: what a metric gains when what one sender writes reaches one receiver as in another run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.attribution.estimates import middles
from cutaway.interp.circuits.ablated import Ablated, ablated_outputs
from cutaway.interp.circuits.estimates import along_activations, along_inputs
from cutaway.interp.circuits.exact import try_all, try_largest
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.pair import MeanScores, Pair, RowSums
from cutaway.interp.circuits.result import EdgeMethod, EdgeScores
from cutaway.interp.editing import row_lengths
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.metrics import Metric
from cutaway.interp.nodes import KVInputs
from cutaway.interp.sites import norm_scales
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["score_edges"]


def score_edges(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "other_batch other_pos"],
    metric: AnyMetric,
    *,
    method: EdgeMethod = "eap",
    ablation: How | Ablated = "resample",
    kv: KVInputs = "group",
    features: Sequence[FeatureNodes] = (),
    steps: int = 5,
    exact_top: int | None = None,
    threshold: float = 0.05,
    lengths: Sequence[int] | None = None,
    frozen: str | Sequence[str] = (),
    memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EdgeScores:
    """Score every edge of the graph by what the metric gains when that edge alone carries what the other run's sender writes.

    `exact` tries each: the receiver reads the run's stream with the sender's output of the other run in it, everything between them
    is held, and all after it recomputed. `eap` takes that to first order: the sender's change times the metric's gradient with respect
    to what the receiver reads, summed over positions, from one backward pass for all edges. `eap-ig-inputs` averages the gradient over
    `steps` runs whose embeddings lie on the line between those of the two runs: the embedding's scores sum to what the metric differs
    by, as steps grow. `eap-ig-activations` averages it over runs in which one sender's output lies on its line: each sender's scores
    sum to what patching it whole does. `exact_top` tries so many edges of the largest scores for themselves.

    With `ablation` "zero" or "mean" an edge carries not the other run's output but nothing, or the mean over the other tokens at each
    position (or what `ablated_outputs` gave, for another mean); the line of the embeddings then ends there, and an edge is tried as a
    circuit of all others. So circuits that run under an ablation are chosen by what that ablation does. To first order zero ablation
    misses edges that carry most of what a norm reads, as it divides out their size: their gradient along themselves is 0.

    Where heads share keys and values, an edge enters those of the group, or with `kv="query-head"` of one query head, as if it had its
    own. The `features` of dictionaries are senders and receivers beside what they leave of their MLPs (Marks et al. 2024). Norms in
    `frozen`, by name or glob, divide by the run's own scale whatever comes in. `lengths` are each row's tokens, in both
    runs, where rows are filled up on the right; `threshold` is the share of the difference between the runs from which on an edge
    counts as one that matters. So many rows and positions are computed at once as take no more than `memory_gib`, 1 unless given; a
    metric that is a plain function gets all rows at once. Raises ValueError for runs of different shape, for rows of different
    length in a bidirectional model, for one without layers, and for a budget too small for one row. Source:
    Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"; Hanna et al. 2024, "Have Faith in Faithfulness";
    exactly, Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching".

    >>> import cutaway
    >>> from cutaway import circuits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> found = circuits.score_edges(lm.model, clean, corrupted, answer, exact_top=20)
    >>> print(found.ranked()[0].edge)
    L1H1->logits
    """
    _check_options(method, kv, steps, exact_top)
    how = ablation.how if isinstance(ablation, Ablated) else ablation
    held = norm_scales(model.config, frozen)
    if held and how != "resample" and (method == "exact" or exact_top):
        raise ValueError(f"edges are tried under {how} ablation with live norms: leave frozen out, or take another method")
    _check_runs(model, tokens, other_tokens, metric, lengths)
    graph = Graph(model.config, kv, tuple(features)).open(model)
    pair = Pair(
        model=without_dropout(model), tokens=tokens, other_tokens=other_tokens, metric=metric, graph=graph,
        frozen=held, lengths=lengths, memory_gib=memory_gib, ablated=_ablated(model, graph, tokens, other_tokens, ablation, lengths),
    )  # fmt: skip
    n_tried = min(exact_top or 0, pair.graph.n_edges)
    n_cells = pair.graph.n_edges if method == "exact" else n_tried
    told = _Told(progress, n_runs=_n_runs(method, pair.graph, steps) * len(tokens), n_cells=n_cells * len(tokens))
    with torch.no_grad():
        found = try_all(pair, told.of_cells) if method == "exact" else _estimated(pair, method, steps, told.of_runs)
        exact = try_largest(pair, found.scores, n_tried, told.of_cells)
    return EdgeScores(
        graph=pair.graph,
        method=method,
        steps=None if method in ("eap", "exact") else steps,
        exact=exact,
        threshold=threshold,
        frozen=pair.frozen,
        ablation=how,
        replacement="" if pair.ablated is None else pair.ablated.said,
        **found._asdict(),
    )


def _ablated(
    model: Transformer,
    graph: Graph,
    tokens: Tensor,
    other_tokens: Tensor,
    ablation: How | Ablated,
    lengths: Sequence[int] | None,
) -> Ablated | None:
    """Return what senders write when ablated; None for what they write in the run of the other tokens."""
    if isinstance(ablation, Ablated):
        if ablation.latents.keys() != {each.layer for each in graph.features}:
            raise ValueError(
                "the ablated outputs are of other features: give ablated_outputs the features that edges are scored with"
            )
        return ablation
    if ablation == "resample":
        return None
    return ablated_outputs(model, tokens, ablation, other_tokens=other_tokens, lengths=lengths, features=graph.features)


def _estimated(pair: Pair, method: EdgeMethod, steps: int, done: Callable[[int], None]) -> MeanScores:
    sums = RowSums(pair.graph)
    for rows in pair.rows():
        n_rows = len(rows.runs.tokens)
        estimate = along_activations if method == "eap-ig-activations" else along_inputs
        shares = [0.0] if method == "eap" else list(middles(steps))
        scores = estimate(rows, shares, done=lambda n_runs, n_rows=n_rows: done(n_runs * n_rows))  # type: ignore[misc]
        sums.add(scores, rows.runs.base, rows.runs.other)
    return sums.mean()


def _n_runs(method: EdgeMethod, graph: Graph, steps: int) -> int:
    """Return how many runs of all rows an estimate takes."""
    match method:
        case "eap":
            return 1
        case "eap-ig-inputs":
            return steps
        case "eap-ig-activations":
            return steps * len(graph.senders)
    return 0


@dataclass
class _Told:
    """What a caller is told of: rows of runs, and after these rows of edges that are tried."""

    progress: Callable[[int, int], None] | None
    n_runs: int
    n_cells: int
    n_done: int = 0

    def of_runs(self, n: int) -> None:
        """Tell that so many more rows have run."""
        self.n_done += n
        self._tell(self.n_done)

    def of_cells(self, n_cells: int, _n_all: int) -> None:
        """Tell how many rows of edges have been tried."""
        self._tell(self.n_runs + min(n_cells, self.n_cells))

    def _tell(self, n: int) -> None:
        if self.progress is not None:
            self.progress(n, self.n_runs + self.n_cells)


def _check_options(method: str, kv: str, steps: int, exact_top: int | None) -> None:
    if method not in get_args(EdgeMethod):
        raise ValueError(f"method is {method!r}; expected one of {', '.join(get_args(EdgeMethod))}")
    if kv not in get_args(KVInputs):
        raise ValueError(f"kv is {kv!r}; expected one of {', '.join(get_args(KVInputs))}")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 at least")
    if exact_top is not None and exact_top < 1:
        raise ValueError(f"{exact_top} edges are to be tried; expected 1 at least, or none given")
    if exact_top is not None and method == "exact":
        raise ValueError(
            "some edges are to be tried beside an estimate, and the method exact tries them all: ask for one of the two"
        )


def _check_runs(model: Transformer, tokens: Tensor, other_tokens: Tensor, metric: AnyMetric, lengths: Sequence[int] | None) -> None:
    if not model.config.n_layers:
        raise ValueError("a model without layers has one edge, embed->logits, and nothing to choose from: give one with layers")
    (n_rows, n_pos), (n_other_rows, n_other_pos) = tokens.shape, other_tokens.shape
    if not n_rows or not n_pos:
        raise ValueError(f"there are {n_rows} rows of {n_pos} tokens: give at least one of each")
    if n_pos != n_other_pos:
        raise ValueError(
            f"the runs have {n_pos} and {n_other_pos} tokens: edges are scored position by position, so give prompts of one length"
        )
    if n_rows != n_other_rows:
        raise ValueError(f"the runs have {n_rows} and {n_other_rows} rows: give the other run a row for each of the first")
    row_lengths(model, tokens, lengths)
    if isinstance(metric, Metric):
        metric.check(n_rows, n_pos, model.config.d_vocab_out)
    elif lengths is not None:
        raise ValueError("a function of full logits cannot tell where shorter rows end: give a metric of cutaway.metrics")
