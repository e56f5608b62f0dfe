"""A circuit evaluated: faithfulness under several ablations, completeness, minimality, and random circuits beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.bootstrap import N_RESAMPLES
from cutaway.interp.circuits.circuit import Circuit, n_known_pairs
from cutaway.interp.circuits.circuit_scores import CircuitScores
from cutaway.interp.circuits.counting import Counter, Score
from cutaway.interp.circuits.faithfulness import LEAST_GAP, Faithfulness, Subset, UnitEffect
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.random_circuits import random_circuits
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["Unit", "evaluate_circuit"]

Unit = Literal["node", "edge"]
"""What is taken out at a time: a node, with all its edges, or an edge."""


def evaluate_circuit(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    circuit: Circuit,
    *,
    ablations: Sequence[How] = ("resample",),
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    over_positions: bool = False,
    lengths: Sequence[int] | None = None,
    n_random: int = 50,
    n_subsets: int = 10,
    units: Unit | None = "node",
    least_gap: float = LEAST_GAP,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    memory_gib: float = 1.0,
    measured: str = "metric",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitScores:
    """Return how faithful a circuit is, how complete and how minimal, under each ablation, beside random connected circuits.

    Completeness: `n_subsets` random parts K of the circuit, each unit of it in K with a chance that is drawn too, are taken out of the
    circuit and of the model. Minimality: each unit is taken out of the circuit alone. Random circuits have as many edges into each
    layer. `lengths` are each row's tokens, in both runs, where rows are filled up on the right; `least_gap` is the least difference
    between model and empty circuit that a faithfulness is divided by. Raises ValueError for a circuit of another model and for runs of
    different length. Source: Wang et al. 2022, "Interpretability in the Wild", section 4.

    >>> import cutaway
    >>> from cutaway import circuits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> circuit = circuits.select_circuit(lm.model, clean, corrupted, answer, n_edges=20).circuit
    >>> circuits.evaluate_circuit(lm.model, clean, corrupted, answer, circuit).summary()
    '...faithfulness 95.1 %...'
    """
    n_units = 0 if units is None else len(list(_units(circuit, units)))
    n_runs = len(ablations) * (3 + n_random + 2 * n_subsets * (len(circuit) > 0) + n_units)
    counter = Counter(n_runs, progress)
    found: list[Faithfulness] = []
    for how in ablations:
        runs = CircuitRuns.of(
            model, tokens, circuit, ablation=how, other_tokens=other_tokens, reference=reference, over_positions=over_positions,
            lengths=lengths, memory_gib=memory_gib, force=force or bool(found),
        )  # fmt: skip
        score = counter.counting(runs, metric)
        alone = score(circuit.kept)
        found.append(
            Faithfulness(
                how=how, said=runs.ablated.said, circuit=alone, model=score(runs.everything), empty=score(runs.nothing),
                random=_random(runs.graph, circuit, score, n_random, seed),
                subsets=tuple(_subsets(circuit, score, n_subsets, units or "node", seed)),
                units=tuple(_without_each(circuit, score, alone, units)),
                least_gap=least_gap, n_resamples=n_resamples, seed=seed,
            )
        )  # fmt: skip
    n_known = n_known_pairs(circuit, tokens, other_tokens, lengths)
    return CircuitScores(circuit=circuit, faithfulness=tuple(found), measured=measured, units=units, n_known_pairs=n_known)


def _random(graph: Graph, circuit: Circuit, score: Score, n_random: int, seed: int) -> Tensor | None:
    if not n_random or not len(connected := circuit.connected()):
        return None  # nothing leads from the embedding to the logits
    masks = random_circuits(graph, connected.layer_histogram, n_random, generator=seeded_generator(seed))
    return torch.stack([score(kept) for kept in masks])


def _subsets(circuit: Circuit, score: Score, n_subsets: int, unit: Unit, seed: int) -> Iterator[Subset]:
    everything, generator = circuit.graph.has_edge, seeded_generator(seed)
    masks = [mask for _, mask in _units(circuit, unit)]
    for _ in range(n_subsets if masks else 0):
        chance = torch.rand((), generator=generator)
        chosen = torch.rand(len(masks), generator=generator) < chance
        taken = torch.zeros_like(everything)
        for mask, is_chosen in zip(masks, chosen.tolist(), strict=True):
            if is_chosen:
                taken |= mask
        yield Subset(
            int((circuit.kept & taken).sum()),
            float(score(circuit.kept & ~taken).mean()),
            float(score(everything & ~taken).mean()),
        )


def _without_each(circuit: Circuit, score: Score, alone: Tensor, unit: Unit | None) -> Iterator[UnitEffect]:
    if unit is not None:
        for name, mask in _units(circuit, unit):
            yield UnitEffect(name, float((score(circuit.kept & ~mask) - alone).mean()))


def _units(circuit: Circuit, unit: Unit) -> Iterator[tuple[str, Bool[Tensor, "sender receiver"]]]:
    """Yield the circuit's edges, or its nodes but embedding and logits, each with the edges of the graph that go with it."""
    graph = circuit.graph
    if unit == "edge":
        for edge in circuit.edges:
            yield str(edge), graph.mask([edge])
        return
    senders = {node: i for i, node in enumerate(graph.senders)}
    for node in circuit.nodes:
        if node.kind in ("embed", "logits"):
            continue
        mask = torch.zeros_like(graph.has_edge)
        mask[senders[node]] = True
        own = graph.feeds[:, senders[node]] & (graph.feeds.sum(1) == 1)  # what a group receives is not one head's
        mask[:, own] = True
        yield str(node), mask & graph.has_edge
