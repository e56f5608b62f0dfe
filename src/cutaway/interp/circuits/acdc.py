"""ACDC: a circuit found by taking out one edge after the other and running what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp import metrics
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.sweep import AnyMetric

__all__ = ["Divergence", "find_by_acdc", "divergence_from_model"]

Divergence = Literal["kl", "metric"]
"""How far a circuit is from the model: KL(model || circuit) in nats where the metric reads, or by how much the metric differs."""

_MOST_RUNS = 20_000


def find_by_acdc(
    runs: CircuitRuns,
    metric: AnyMetric,
    *,
    threshold: float,
    divergence: Divergence = "kl",
    most_runs: int = _MOST_RUNS,
    progress: Callable[[int, int], None] | None = None,
) -> Bool[Tensor, "sender receiver"]:
    """Return the edges that are left when each that matters less than `threshold` is taken out, from the logits down.

    Receivers are gone through from the last to the first, and the edges to each from the last sender to the first. An edge goes where
    the circuit without it is further from the model than with it by less than `threshold`. Edges of nodes that nothing reads any more
    go unasked. An oracle for small graphs: it runs a circuit for each edge. Raises ValueError for a graph of more than `most_runs`.
    Source: Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability", algorithm 1.
    """
    graph = runs.graph
    if graph.n_edges > most_runs:
        raise ValueError(
            f"the graph has {graph.n_edges:,} edges, and each takes a run; at most {most_runs} are allowed: score edges and prune, or "
            "give most_runs"
        )
    if not threshold > 0:
        raise ValueError(f"the threshold is {threshold}; expected a number above 0, such as 0.01")
    distance = divergence_from_model(runs, metric, divergence)
    kept = graph.has_edge.clone()
    current, n_done = float(distance(kept).mean()), 0
    for receiver in reversed(range(len(graph.receivers))):
        senders = kept[:, receiver].nonzero()[:, 0].tolist()
        n_done += len(senders)
        is_read = receiver == len(graph.receivers) - 1 or bool((graph.feeds[receiver] & graph.used(kept)).any())
        if not is_read:
            kept[:, receiver] = False
            continue
        for sender in reversed(senders):
            kept[sender, receiver] = False
            without = float(distance(kept).mean())
            if without - current < threshold:
                current = without
            else:
                kept[sender, receiver] = True
        if progress is not None:
            progress(n_done, graph.n_edges)
    return graph.connected(kept)


def divergence_from_model(
    runs: CircuitRuns, metric: AnyMetric, divergence: Divergence
) -> Callable[[Bool[Tensor, "sender receiver"]], Float[Tensor, " batch"]]:
    """Return the function that says how far the run of a circuit is from the model's, for each row."""
    with torch.no_grad():
        if divergence == "kl":
            kl = metrics.kl(runs.logits(runs.everything), pos=getattr(metric, "pos", None))
            return lambda kept: runs.metric(kept, kl)
        whole = runs.metric(runs.everything, metric)
        return lambda kept: (runs.metric(kept, metric) - whole).abs()
