"""What an attribution graph holds: nodes, the edges between them, and what follows from those."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.drawing import draw_nodes
from cutaway.interp.attribution_graphs.influence import (
    Pruning,
    completeness,
    cumulative,
    edge_influence,
    influence,
    prune,
    shares,
    strongest_paths,
)
from cutaway.interp.attribution_graphs.nodes import Node, Path
from cutaway.interp.attribution_graphs.replacement import Frozen
from cutaway.interp.result import Result
from cutaway.report import link, table, token_label
from cutaway.report.numbers import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["AttributionGraph"]

_N_PATHS, _N_VIEWED, _N_FEATURES, _N_SHOWN, _N_COLUMNS = 10, 6, 25, 12, 2
_N_DRAWN = 40
_THROUGH: dict[Frozen, str] = {"patterns": "the norms", "nothing": "norms and attention patterns"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionGraph(Result):
    """The direct effects of a prompt's features, errors and tokens on each other and on logits.

    Sources are features (by layer, position, number), errors (by layer, position) and tokens (by position), in this order; targets are
    the same features and then logits. Each row of `edges` plus its `biases` and `left_out` is the target's `values`: a feature's
    pre-activation, a logit less the mean over the vocabulary.
    """

    title: ClassVar[str] = "Attribution graph"
    source: ClassVar[str] = (
        'Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"; Dunefsky et al. 2024, "Transcoders '
        'Find Interpretable LLM Feature Circuits"'
    )

    prompt: str
    tokens: tuple[int, ...]
    words: tuple[str, ...]
    """The text of each token."""
    pos: int
    """The position whose logits are asked for."""
    n_layers: int
    transcoders: dict[int, str]
    """By layer, the activation that the transcoder there reads."""
    features: Int[Tensor, "feature 3"]
    """Layer, position and number, as its transcoder counts them."""
    activations: Float[Tensor, " feature"]
    errors: Int[Tensor, "error 2"]
    """Layer and position; where a layer has no transcoder, this is all that its MLP gives."""
    logits: tuple[int, ...]
    """The tokens whose logits are targets."""
    logit_words: tuple[str, ...]
    probs: Float[Tensor, " logit"]
    edges: Float[Tensor, "target source"]
    biases: Float[Tensor, " target"]
    """What attention outputs, norms, decoders, encoders and the unembedding add that no node does."""
    left_out: Float[Tensor, " target"]
    """What active features add that are no nodes, as there were more than `max_features`."""
    values: Float[Tensor, " target"]
    """As the run itself gave them, for the sums to be held against."""
    n_active: int
    """Features above zero, nodes or not."""
    model_sha256: str
    frozen: Frozen = "both"
    """What was held at its value; through what was not, edges are derivatives."""
    model: str = ""
    """What the model is called, where that is known."""
    folders: tuple[str, ...] = ()
    """Where the transcoders lie, where that is known."""
    node_threshold: float = 0.8
    """What pruning keeps unless told otherwise: nodes with this share of the influence, as circuit-tracer does."""
    edge_threshold: float = 0.98
    """The same of edges."""
    pages: Mapping[tuple[int, int], FilePath] = field(default_factory=dict)
    """Pages of features, by layer and number, to which reports link."""

    @property
    def n_features(self) -> int:
        """How many features are nodes."""
        return len(self.features)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in the order of the sources, and after them the logits."""
        features = [Node("feature", layer, pos, number) for layer, pos, number in self.features.tolist()]
        errors = [Node("error" if layer in self.transcoders else "mlp", layer, pos, None) for layer, pos in self.errors.tolist()]
        tokens = [Node("token", None, pos, token) for pos, token in enumerate(self.tokens)]
        return (*features, *errors, *tokens, *(Node("logit", None, self.pos, token) for token in self.logits))

    @cached_property
    def weights(self) -> Float[Tensor, " target"]:
        """The logits' probabilities, divided by their sum; zero for features, which count by what they do to logits."""
        return torch.cat([self.probs.new_zeros(self.n_features), self.probs / self.probs.sum()])

    @cached_property
    def shares(self) -> Float[Tensor, "target source"]:
        """The size of each edge as a share of all edges into its target."""
        return shares(self.edges)

    @cached_property
    def influence(self) -> Float[Tensor, " source"]:
        """Which share of what reaches the logits passes through each source, on all paths."""
        return influence(self.shares, self.weights, torch.arange(self.n_features, device=self.edges.device))

    @property
    def replacement_score(self) -> float:
        """The share of all paths that begin at tokens and go through features alone, and not at errors."""
        ends = self.influence[self.n_features :]
        return (ends[-len(self.tokens) :].sum() / ends.sum()).item()

    @property
    def completeness_score(self) -> float:
        """The share of what targets read that comes from features and tokens, not errors; targets count by what they pass on.

        That is how Ameisen et al. 2025 say it; circuit-tracer computes another number, `circuit_tracer_completeness`.
        """
        return completeness(self.shares, self.weights, n_features=self.n_features, n_errors=len(self.errors))

    @property
    def circuit_tracer_completeness(self) -> float:
        """The completeness score as circuit-tracer computes it, the larger: errors and tokens count as nodes that read no errors."""
        return completeness(self.shares, self.weights, n_features=self.n_features, n_errors=len(self.errors), counts_ends=True)

    def pruned(self, *, node_threshold: float | None = None, edge_threshold: float | None = None) -> Pruning:
        """Return which nodes and edges are kept: the fewest that make up these shares of the influence (`influence.prune`).

        Without thresholds they are the graph's own.
        """
        return prune(
            self.edges,
            self.weights,
            n_features=self.n_features,
            n_tokens=len(self.tokens),
            node_threshold=self.node_threshold if node_threshold is None else node_threshold,
            edge_threshold=self.edge_threshold if edge_threshold is None else edge_threshold,
        )

    def with_thresholds(self, *, node: float | None = None, edge: float | None = None) -> AttributionGraph:
        """Return the graph as other thresholds show it; raises ValueError for one outside 0 to 1."""
        node, edge = self.node_threshold if node is None else node, self.edge_threshold if edge is None else edge
        self.pruned(node_threshold=node, edge_threshold=edge)  # which refuses what is no share
        return replace(self, node_threshold=node, edge_threshold=edge)

    def paths(self, n_paths: int = _N_PATHS, *, from_errors: bool = True) -> list[Path]:
        """Return the paths that carry most to the logits, the strongest first; without `from_errors` those that begin at tokens."""
        share = self.shares
        if not from_errors:
            share = share.clone()
            share[:, self.n_features : self.n_features + len(self.errors)] = 0
        found = strongest_paths(share, self.weights, n_features=self.n_features, n_paths=n_paths)
        return [Path(tuple(self.nodes[node] for node in nodes), weight) for weight, nodes in found]

    def strongest_features(self, n: int = _N_FEATURES) -> Int[Tensor, " feature"]:
        """Return the places in `features` of those with most influence."""
        return self.influence[: self.n_features].argsort(descending=True, stable=True)[:n]

    def place(self, layer: int, pos: int, number: int) -> int:
        """Return where a feature stands in `features`; raises ValueError for one that is no node."""
        wanted = Node("feature", layer, pos % len(self.tokens), number)
        if wanted not in self.nodes[: self.n_features]:
            raise ValueError(
                f"feature {number} of layer {layer} at position {pos} is no node of this graph: it is not active, or left out"
            )
        return self.nodes.index(wanted)

    def label(self, node: Node) -> str:
        """Return a node in words: `L3 #812 at 4 ·Paris`, with its position and the token that stands there."""
        at = f"{node.pos} {token_label(self.words[node.pos])}"
        match node.kind:
            case "logit":
                return f"logit {self._logit_label(node)}"
            case "token":
                return at
        what = {"feature": f"#{node.number}", "error": "error", "mlp": "MLP"}[node.kind]
        return f"L{node.layer} {what} at {at}"

    def _logit_label(self, node: Node) -> str:
        return token_label(self.logit_words[self.logits.index(node.number or 0)])

    def summary(self) -> str:
        """Return the sizes of the graph, how much of it errors are, and the strongest path."""
        logits = ", ".join(
            f"{token_label(word)} ({_percent(p)})" for word, p in zip(self.logit_words, self.probs.tolist(), strict=True)
        )
        features, errors, edges = (counted(n, what) for what, n in self._sizes(self.pruned()).items())
        bare = sorted(set(range(self.n_layers)) - self.transcoders.keys())
        sentences = [
            f"{counted(self.n_features, 'feature')} of {len(self.transcoders)} of {self.n_layers} MLP layers, "
            f"{counted(len(self.errors), 'error')} and {counted(len(self.tokens), 'token')} lead to "
            f"{counted(len(self.logits), 'logit')}: {logits}.",
            f"Of what reaches them {_percent(self.replacement_score)} comes from tokens through features alone (replacement score), "
            f"and of what nodes read {_percent(self.completeness_score)} comes from features and tokens, not errors (completeness; "
            f"{_percent(self.circuit_tracer_completeness)} as circuit-tracer counts, with errors and tokens among the nodes).",
            f"{features}, {errors} and {edges} are left when the nodes with "
            f"{100 * self.node_threshold:g} % of the influence are kept, and {100 * self.edge_threshold:g} % of what passes along "
            "edges.",
        ]
        if self.n_active > self.n_features:
            sentences.append(f"{self.n_active - self.n_features:,} active features are left out.")
        if self.frozen != "both":
            sentences.append(f"Edges are derivatives through {_THROUGH[self.frozen]}.")
        if bare:
            sentences.append(f"Layers without a transcoder count as errors whole: {', '.join(map(str, bare))}.")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, scores, sums, and of nodes and edges those that pruning keeps; `save_graph` keeps all."""
        kept = self.pruned()
        held, n_sources = kept.sources.tolist(), self.edges.shape[1]
        spread = cumulative(self.influence).tolist()
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "model_sha256": self.model_sha256,
            "frozen": self.frozen,
            "transcoders": {str(layer): name for layer, name in self.transcoders.items()},
            "n_features": self.n_features,
            "n_active": self.n_active,
            "replacement_score": self.replacement_score,
            "completeness_score": self.completeness_score,
            "circuit_tracer_completeness": self.circuit_tracer_completeness,
            "logits": [
                {"token": token, "text": word, "prob": p, "value": value, "bias": bias}
                for token, word, p, value, bias in zip(
                    self.logits, self.logit_words, self.probs.tolist(), self.values[self.n_features :].tolist(),
                    self.biases[self.n_features :].tolist(), strict=True,
                )
            ],
            "node_threshold": kept.node_threshold,
            "edge_threshold": kept.edge_threshold,
            "nodes": [
                {"node": node.id, "kind": node.kind, "layer": node.layer, "pos": node.pos, "number": node.number}
                | {"label": self.label(node)}
                | ({"influence": self.influence[place].item(), "cumulative": spread[place]} if place < n_sources else {})
                for place, node in enumerate(self.nodes)
                if place >= n_sources or held[place]
            ],
            "edges": [
                {"source": source.id, "target": target.id, "weight": weight} for source, target, weight in self.kept_edges(kept)
            ],
            "paths": [{"nodes": [node.id for node in path.nodes], "weight": path.weight} for path in self.paths()],
            "paths_from_tokens": [
                {"nodes": [node.id for node in path.nodes], "weight": path.weight} for path in self.paths(from_errors=False)
            ],
        }  # fmt: skip

    def kept_edges(self, kept: Pruning) -> list[tuple[Node, Node, float]]:
        """Return source, target and weight of the edges that pruning keeps."""
        return self._links(kept.edges, self.edges)

    def _links(
        self, chosen: Bool[Tensor, "target source"], values: Float[Tensor, "target source"]
    ) -> list[tuple[Node, Node, float]]:
        beyond = self.edges.shape[1] - self.n_features  # from a logit's row to its place among the nodes
        places = [(target if target < self.n_features else target + beyond, source) for target, source in chosen.nonzero().tolist()]
        return [
            (self.nodes[source], self.nodes[target], value)
            for (target, source), value in zip(places, values[chosen].tolist(), strict=True)
        ]

    def report(self, path: FilePath | str, *, subtitle: str = "") -> FilePath:
        """Write one self-contained HTML page of it and return where; features lead to their pages, where there are some."""
        start = FilePath(path).parent
        pages = {feature: FilePath(os.path.relpath(page, start)) for feature, page in self.pages.items()}
        return super(AttributionGraph, replace(self, pages=pages)).report(path, subtitle=subtitle)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the features with most influence."""
        rows = self._feature_rows(_N_FEATURES)
        for row, place in zip(rows, self.strongest_features().tolist(), strict=True):
            if href := self._href(self.nodes[place]):
                row[0] = link(row[0], href)
        return self._feature_heads(), rows

    def figures(self) -> list[Figure]:
        """Return the strongest nodes and edges, position by layer, and the features with most influence."""
        from cutaway.plots import bars

        strongest = self.strongest_features().tolist()
        if not strongest:
            return [self._drawn()]
        ranked = bars(
            [100 * self.influence[place].item() for place in strongest],
            labels=[self.label(self.nodes[place]) for place in strongest],
            title="The features with most influence",
            label="share of what reaches the logits, %",
        )
        return [self._drawn(), ranked]

    def _drawn(self) -> Figure:
        """Return a figure of the nodes and edges that pruning keeps, of many the strongest, and say how many those are."""
        kept, n_tokens = self.pruned(), len(self.tokens)
        ranked = self.influence[:-n_tokens].argsort(descending=True, stable=True)
        strongest = sorted(ranked[kept.sources[ranked]][:_N_DRAWN].tolist())
        shown = [self.nodes[place] for place in (*strongest, *range(self.edges.shape[1] - n_tokens, len(self.nodes)))]
        through = edge_influence(self.shares, self.weights, n_features=self.n_features) * self.edges.sign()
        return draw_nodes(
            shown,
            self._links(kept.edges, through),
            kept=self._sizes(kept),
            words=self.words,
            logits=dict(zip(self.nodes[-len(self.logits) :], self.logit_words, strict=True)),
            n_layers=self.n_layers,
            hrefs={node: self._href(node) for node in shown},
        )

    def _sizes(self, kept: Pruning) -> dict[str, int]:
        """Return how many features, errors and edges pruning keeps."""
        features, errors = kept.sources[: self.n_features], kept.sources[self.n_features : -len(self.tokens)]
        return {"feature": int(features.sum()), "error": int(errors.sum()), "edge": int(kept.edges.sum())}

    def views(self) -> list[RenderableType]:
        """Return the strongest paths, and the features with most influence."""
        shown: list[RenderableType] = []
        strongest, from_tokens = self.paths(_N_VIEWED), self.paths(_N_VIEWED, from_errors=False)
        listed = {"The strongest paths": strongest, "The strongest paths from tokens": from_tokens}
        if strongest == from_tokens:
            listed = {"The strongest paths, all of them from tokens": strongest}
        for title, found in listed.items():
            paths = table("share", "path", right=["share"], title=title)
            for path in found:
                paths.add_row(_percent(path.weight), " > ".join(map(self.label, path.nodes)))
            shown.append(paths)
        header = self._feature_heads()
        features = table(*header, right=header[2:], title="The features with most influence")
        for row in self._feature_rows(_N_SHOWN):
            features.add_row(*row)
        return [*shown, features]

    def _feature_heads(self) -> list[str]:
        return [
            "feature",
            "at",
            "activation",
            "influence %",
            *(f"to {token_label(word)}" for word in self.logit_words[:_N_COLUMNS]),
        ]

    def _href(self, node: Node) -> str:
        """Return where a feature's page is, as a page beside the report has it; nothing where there is none."""
        page = self.pages.get((node.layer or 0, node.number or 0)) if node.kind == "feature" else None
        return "" if page is None else quote(page.as_posix())

    def _feature_rows(self, n: int) -> list[list[str]]:
        """Return name, place, activation, influence and direct effects on the first logits of the strongest features."""
        rows = []
        for place in self.strongest_features(n).tolist():
            node, first = self.nodes[place], self.n_features
            direct = self.edges[first : first + _N_COLUMNS, place].tolist()
            rows.append(
                [
                    f"L{node.layer} #{node.number}",
                    f"{node.pos} {token_label(self.words[node.pos])}",
                    f"{self.activations[place].item():.3g}",
                    f"{100 * self.influence[place].item():.1f}",
                    *(f"{value:+.3g}" for value in direct),
                ]
            )
        return rows


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
