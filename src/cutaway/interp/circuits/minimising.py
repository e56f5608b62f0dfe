"""Circuits made smaller: edges that are not needed are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer

__all__ = ["minimise"]


def minimise(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    circuit: Circuit,
    *,
    tolerance: float = 0.02,
    ablation: How = "resample",
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    over_positions: bool = False,
    lengths: Sequence[int] | None = None,
    memory_gib: float = 1.0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """Return the circuit without edges that it can do without: the metric's mean stays within `tolerance` of the gap from where it was.

    The gap is that between the model and the empty circuit. Edges are tried from the smallest score up, or in the graph's order where
    there are none: many at once, and where too much is lost with them, each half by itself. What is left is connected, and none of its
    edges could be taken out alone at its turn; another order may leave fewer. `lengths` are as in `evaluate_circuit`. Raises ValueError
    where the gap is 0, and as `run_circuit` does.
    """
    runs = CircuitRuns.of(
        model, tokens, circuit, ablation=ablation, other_tokens=other_tokens, reference=reference, over_positions=over_positions,
        lengths=lengths, memory_gib=memory_gib, force=force,
    )  # fmt: skip
    gap = float((runs.metric(runs.everything, metric).mean() - runs.metric(runs.nothing, metric).mean()).abs())
    if not gap:
        raise ValueError("model and empty circuit give the same metric, so that nothing says which edges are needed")
    graph, start = runs.graph, float(runs.metric(circuit.kept, metric).mean())
    kept = graph.connected(circuit.kept)
    sizes = circuit.scores or (0.0,) * len(circuit)
    order = [edge for _, edge in sorted(zip(sizes, circuit.edges, strict=True), key=lambda pair: abs(pair[0]))]
    n_all = len(order)
    waiting = [[graph.place(edge) for edge in order]] if order else []
    while waiting:
        places = waiting.pop()
        tried = kept.clone()
        tried[tuple(torch.tensor(places).T)] = False
        tried = graph.connected(tried)
        if torch.equal(tried, kept):
            continue
        if abs(float(runs.metric(tried, metric).mean()) - start) <= tolerance * gap:
            kept = tried
        elif len(places) > 1:
            half = len(places) // 2
            waiting += [places[half:], places[:half]]  # the smaller scores next
        if progress is not None:
            progress(n_all - sum(map(len, waiting)), n_all)
    return circuit.keeping(graph.edges_of(kept))
