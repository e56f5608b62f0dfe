"""A circuit selected from the edges of a model: scored and pruned, or taken out one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.ablated import ablated_outputs
from cutaway.interp.circuits.acdc import Divergence, find_by_acdc
from cutaway.interp.circuits.choosing import features_for
from cutaway.interp.circuits.circuit import Circuit, hash_data, hash_pairs
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.pruning import PRUNINGS, Pruned, prune_by_threshold
from cutaway.interp.circuits.result import EdgeMethod, EdgeScores
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.circuits.scoring import score_edges
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import KVInputs
from cutaway.interp.sae import Dictionary
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer
from cutaway.weights import model_sha256

__all__ = ["Selection", "SelectionOptions", "SelectedCircuit", "select_circuit"]

Selection = Literal["greedy", "largest", "threshold", "acdc"]
"""How edges are chosen: so many of the best scores, greedily or anywhere, all of a size, or by running what is left (ACDC)."""


class SelectionOptions(TypedDict, total=False):
    """What `select_circuit` takes besides runs and a metric, with its own defaults."""

    method: EdgeMethod
    selection: Selection
    n_edges: int
    threshold: float
    divergence: Divergence
    ablation: How
    kv: KVInputs
    features: Sequence[FeatureNodes | Dictionary | Path | str]
    n_features: int
    steps: int
    exact_top: int | None
    name: str
    command: str
    progress: Callable[[int, int], None] | None


class SelectedCircuit(NamedTuple):
    """A circuit, and what is known of how it came about."""

    circuit: Circuit
    n_dropped: int
    """How many edges were taken and then dropped, as no path has them."""
    edge_scores: EdgeScores | None
    """Of every edge, where they were scored."""


def select_circuit(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    *,
    method: EdgeMethod = "eap-ig-inputs",
    selection: Selection = "greedy",
    n_edges: int = 200,
    threshold: float = 0.01,
    divergence: Divergence = "kl",
    ablation: How = "resample",
    kv: KVInputs = "group",
    features: Sequence[FeatureNodes | Dictionary | Path | str] = (),
    n_features: int = 20,
    steps: int = 5,
    exact_top: int | None = None,
    lengths: Sequence[int] | None = None,
    over_positions: bool = False,
    name: str = "",
    command: str = "",
    measured: str = "metric",
    progress: Callable[[int, int], None] | None = None,
) -> SelectedCircuit:
    """Return the circuit of a model that carries what a metric differs by between two runs: `find_circuit` without prompts.

    `greedy` and `largest` prune the scores of `method` to `n_edges`. `threshold` keeps each edge whose score is that share of the
    difference between the runs, or with ablation of that to the ablated run; `acdc`, which needs no scores, takes out each that moves
    the next token's distribution, or the metric, by less than `threshold`. `exact_top` tries so many edges of the largest scores.
    `lengths` are each row's tokens, in both runs, where rows are filled up on the right; of such rows there is a mean over positions
    alone. Check the circuit with `evaluate_circuit` on rows that it was not selected with. Raises ValueError where no row of the runs
    differs in the metric, and as the parts do.

    >>> import cutaway
    >>> from cutaway import circuits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> found = circuits.select_circuit(lm.model, clean, corrupted, answer, n_edges=20)
    >>> found.circuit
    Circuit(20 of 257 edges, 10 nodes, found by eap-ig-inputs, greedy)
    """
    _check_options(selection, features, lengths, exact_top)
    nodes = features_for(model, tokens, other_tokens, metric, features, n_features=n_features)
    graph = Graph(model.config, kv, nodes).open(model)
    outside = ablated_outputs(
        model, tokens, ablation, other_tokens=other_tokens, over_positions=over_positions, lengths=lengths, features=graph.features
    )
    if selection == "acdc":
        chosen = _by_acdc(CircuitRuns(model, tokens, graph, outside, lengths=lengths), metric, threshold, divergence, progress)
    else:
        scores = score_edges(
            model, tokens, other_tokens, metric, method=method, ablation=ablation if ablation == "resample" else outside, kv=kv,
            features=graph.features, steps=steps, exact_top=exact_top, lengths=lengths, progress=progress,
        )  # fmt: skip
        chosen = _by_scores(scores, selection, n_edges, threshold)
    settings = {"selection": selection, "kv": kv, "ablation": ablation, "metric": measured, "n_pairs": len(tokens)}
    about = _hashes(model, tokens, other_tokens, lengths) | {"model": name, "command": command}
    circuit = chosen.circuit(graph, settings=settings | chosen.settings, **about)
    return SelectedCircuit(circuit, chosen.pruned.n_dropped, chosen.scores)


def _hashes(model: Transformer, tokens: Tensor, other_tokens: Tensor, lengths: Sequence[int] | None) -> dict[str, Any]:
    """Return what tells of which model and rows a circuit is."""
    return {
        "model_hash": model_sha256(model),
        "data_hash": hash_data(tokens, other_tokens, lengths),
        "pair_hashes": hash_pairs(tokens, other_tokens, lengths),
    }


def _check_options(selection: str, features: Sequence[object], lengths: Sequence[int] | None, exact_top: int | None) -> None:
    if selection not in get_args(Selection):
        raise ValueError(f"there is no selection {selection!r}; give one of {', '.join(get_args(Selection))}")
    if selection == "acdc" and exact_top is not None:
        raise ValueError("edges are to be tried beside their scores, and ACDC makes none: leave one of the two out")
    if lengths is not None and not all(isinstance(each, FeatureNodes) for each in features):
        raise ValueError("features are chosen on rows of one length: give such rows, or FeatureNodes, whose features are chosen")


class _Chosen(NamedTuple):
    """The edges that were chosen, and what by."""

    pruned: Pruned
    scores: EdgeScores | None
    said: str
    settings: dict[str, Any]

    def circuit(self, graph: Graph, **about: Any) -> Circuit:
        """Return them as a circuit, with their scores where there are any."""
        scores = None if self.scores is None else self.scores.scores
        return Circuit.of_mask(graph, self.pruned.kept, scores, method=self.said, **about)


def _by_acdc(
    runs: CircuitRuns,
    metric: AnyMetric,
    threshold: float,
    divergence: Divergence,
    progress: Callable[[int, int], None] | None,
) -> _Chosen:
    kept = find_by_acdc(runs, metric, threshold=threshold, divergence=divergence, progress=progress)
    return _Chosen(Pruned(kept, 0), None, f"ACDC, threshold {threshold:g}", {"threshold": threshold, "divergence": divergence})


def _by_scores(scores: EdgeScores, selection: Literal["greedy", "largest", "threshold"], n_edges: int, threshold: float) -> _Chosen:
    pruned, settings = _pruned(scores, selection, n_edges, threshold), {"method": scores.method, "steps": scores.steps}
    if selection == "threshold":
        return _Chosen(pruned, scores, f"{scores.method}, {selection} {threshold:g}", {**settings, "threshold": threshold})
    return _Chosen(pruned, scores, f"{scores.method}, {selection}", {**settings, "n_edges": n_edges})


def _pruned(scores: EdgeScores, selection: Literal["greedy", "largest", "threshold"], n_edges: int, threshold: float) -> Pruned:
    """Return the edges whose scores are good enough; raises ValueError for runs that do not differ."""
    if not _differ(scores.base, scores.other):
        raise ValueError(
            "no row of the runs differs in the metric, so that no edge carries anything: give others beside them that change it, or "
            "another metric"
        )
    if selection != "threshold":
        return PRUNINGS[selection](scores.graph, scores.scores, min(n_edges, scores.graph.n_edges))
    if not threshold > 0:
        raise ValueError(f"the threshold is {threshold}; expected a number above 0, such as 0.01")
    if not scores.has_gap:
        raise ValueError(
            "the runs do not differ in the metric's mean, so that there is no share of it: select by a number of edges"
        )
    return prune_by_threshold(scores.graph, scores.scores, threshold * abs(scores.gap))


def _differ(base: Float[Tensor, " batch"], other: Float[Tensor, " batch"]) -> bool:
    """Return whether a row differs by more than rounding."""
    scale = torch.maximum(base.abs(), other.abs())
    return bool(((other - base).abs() > 32 * torch.finfo(base.dtype).eps * scale).any())
