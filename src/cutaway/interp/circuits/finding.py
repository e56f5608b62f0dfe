"""A circuit found from prompts: edges scored, pruned, and checked on prompts that were not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.ablated import ablated_outputs
from cutaway.interp.circuits.acdc import Divergence, find_by_acdc
from cutaway.interp.circuits.choosing import features_for
from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.circuit_scores import CircuitScores
from cutaway.interp.circuits.drawing import CircuitDrawing
from cutaway.interp.circuits.evaluation import evaluate_circuit
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.circuits.prompts import PromptPairs, pairs_to_store
from cutaway.interp.circuits.pruning import PRUNINGS, Pruned, Pruning
from cutaway.interp.circuits.result import EdgeMethod, EdgeScores
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.circuits.scoring import score_edges
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import KVInputs
from cutaway.interp.result import Result
from cutaway.interp.sae import Dictionary
from cutaway.language_model import LanguageModel
from cutaway.weights import model_sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Selection", "FoundCircuit", "find_circuit"]

_N_TRIED = 10

Selection = Literal["greedy", "threshold", "acdc"]
"""How edges are chosen: by their scores, greedily or the largest anywhere, or one by one, by running what is left (ACDC)."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FoundCircuit(Result):
    """A circuit, how it was found, and how faithful it is on other prompts."""

    title: ClassVar[str] = "Circuit found"
    source: ClassVar[str] = (
        'edge attribution patching (Syed et al. 2023), greedy pruning (Hanna et al. 2024, "Have Faith in Faithfulness"), ACDC (Conmy '
        "et al. 2023)"
    )

    circuit: Circuit
    scores: CircuitScores
    n_dropped: int
    """How many edges were taken and then dropped, as no path has them."""
    is_held_out: bool
    """Whether the prompts of the scores are others than those that it was found with."""
    tried: EdgeScores | None = None
    """The scores of the prompts that it was found with, where edges were tried beside them."""
    notes: tuple[str, ...] = ()

    @property
    def drawing(self) -> CircuitDrawing:
        """The circuit to look at."""
        return CircuitDrawing(self.circuit)

    def summary(self) -> str:
        """Return how large it is, what was dropped, and how faithful it is."""
        sentences = [self.drawing.summary()]
        if self.n_dropped:
            sentences.append(f"{self.n_dropped} more edges were taken and dropped, as no path of the circuit has them.")
        if self.tried is not None:
            sentences += self.tried.agreement_said()
        n = len(self.scores.faithfulness[0].circuit)
        where = f"On {n} pairs that it was not found with" if self.is_held_out else "On the same prompts that it was found with"
        sentences += [f"{where}, measured: {self.scores.measured}.", *self.scores.findings()]
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the circuit and its scores."""
        return {
            "circuit": self.drawing.to_dict(),
            "n_dropped": self.n_dropped,
            "is_held_out": self.is_held_out,
            "scores": self.scores.to_dict(),
            "tried": None if self.tried is None else {name: self.tried.to_dict()[name] for name in ("exact", "agreement")},
            "notes": list(self.notes),
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the edges by score."""
        return self.drawing.table()

    def figures(self) -> list[Figure]:
        """Return the picture, and how faithful it is."""
        return [*self.drawing.figures(), *self.scores.figures()]

    def views(self) -> list[RenderableType]:
        """Return nodes, edges and the table of ablations."""
        tried = (
            []
            if self.tried is None
            else [self.tried.strongest("Edges tried one by one", n_edges=min(_N_TRIED, len(self.tried.exact)))]
        )
        return [*self.drawing.views(), *tried, *self.scores.views()]


def find_circuit(
    lm: LanguageModel,
    pairs: PromptPairs,
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
    held_out: float = 0.5,
    n_random: int = 0,
    seed: int = 0,
    name: str = "",
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> FoundCircuit:
    """Return the circuit of some of the pairs, scored on the others: `held_out` is their share. Pairs that are the same go
    together, and one pair is used for both.

    `selection` prunes the scores of `method` to `n_edges`, or with `acdc` takes out each edge that matters less than `threshold`, which
    needs no scores. `exact_top` tries so many edges of the largest scores, to see whether these are right. `ablation` is what
    edges are scored by, and what runs put in the place of what is outside. `features` are nodes beside what they leave of their MLPs;
    of a dictionary of an MLP's output, a transcoder to it, or the folder of one, those `n_features` that move the metric most between
    the pairs that are searched. The circuit keeps both parts of the pairs, `name` and `command`. Raises ValueError as the parts do.
    """
    finding, others = pairs.split(1 - held_out, seed=seed) if len(set(pairs.hashes)) > 1 and held_out else (pairs, pairs)
    chosen_features = features_for(lm.model, finding.tokens, finding.other_tokens, finding.metric, features, n_features=n_features)
    graph = Graph(lm.config, kv, chosen_features).open(lm.model)
    if selection == "acdc":
        if exact_top is not None:
            raise ValueError("edges are to be tried beside their scores, and ACDC makes none: leave one of the two out")
        chosen = _by_acdc(lm, finding, graph, threshold, divergence, ablation, progress)
    else:
        chosen = _by_scores(lm, finding, graph, method, ablation, selection, n_edges, steps, exact_top, progress)
    settings = {"selection": selection, "kv": kv, "ablation": ablation, "metric": pairs.measured} | chosen.settings
    circuit = Circuit.of_mask(
        graph, chosen.pruned.kept, chosen.scores, model=name, model_hash=model_sha256(lm.model), data_hash=finding.data_hash,
        pair_hashes=finding.hashes, prompts=pairs_to_store(lm, finding, None if others is finding else others),
        method=chosen.said, command=command, settings={**settings, "held_out": held_out, "seed": seed, "n_pairs": len(finding)},
    )  # fmt: skip
    scores = evaluate_circuit(
        lm.model, others.tokens, others.other_tokens, others.metric, circuit, ablations=[ablation], n_random=n_random, n_subsets=0,
        units=None, seed=seed, measured=others.measured, force=True,
    )  # fmt: skip
    return FoundCircuit(
        circuit=circuit,
        scores=scores,
        n_dropped=chosen.pruned.n_dropped,
        is_held_out=set(finding.hashes).isdisjoint(others.hashes),
        tried=chosen.tried,
        notes=pairs.question.notes,
    )


class _Chosen(NamedTuple):
    """The edges that were chosen, and what by."""

    pruned: Pruned
    scores: Float[Tensor, "sender receiver"] | None
    said: str
    settings: dict[str, Any]
    tried: EdgeScores | None = None


def _by_acdc(
    lm: LanguageModel,
    pairs: PromptPairs,
    graph: Graph,
    threshold: float,
    divergence: Divergence,
    ablation: How,
    progress: Callable[[int, int], None] | None,
) -> _Chosen:
    outside = ablated_outputs(lm.model, pairs.tokens, ablation, other_tokens=pairs.other_tokens, features=graph.features)
    runs = CircuitRuns(lm.model, pairs.tokens, graph, outside)
    kept = find_by_acdc(runs, pairs.metric, threshold=threshold, divergence=divergence, progress=progress)
    return _Chosen(Pruned(kept, 0), None, f"ACDC, threshold {threshold:g}", {"threshold": threshold, "divergence": divergence})


def _by_scores(
    lm: LanguageModel,
    pairs: PromptPairs,
    graph: Graph,
    method: EdgeMethod,
    ablation: How,
    pruning: Pruning,
    n_edges: int,
    steps: int,
    exact_top: int | None,
    progress: Callable[[int, int], None] | None,
) -> _Chosen:
    found = score_edges(
        lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, method=method, ablation=ablation, kv=graph.kv,
        features=graph.features, steps=steps,
        exact_top=exact_top, progress=progress,
    )  # fmt: skip
    pruned = PRUNINGS[pruning](graph, found.scores, min(n_edges, graph.n_edges))
    settings = {"method": method, "n_edges": n_edges, "steps": found.steps}
    return _Chosen(pruned, found.scores, f"{method}, {pruning}", settings, found if found.exact else None)
