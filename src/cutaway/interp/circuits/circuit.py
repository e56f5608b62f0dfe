"""A circuit as a value: the edges that are kept, of which model, found in which data and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.ablation import How
from cutaway.interp.circuits.graph import Edge, Graph
from cutaway.interp.circuits.stored_prompts import StoredPrompts, one_line_lists
from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import KVInputs, Node
from cutaway.interp.sae import Dictionary, dictionary_sha256
from cutaway.model import Transformer
from cutaway.runtime import atomic_write
from cutaway.weights import model_sha256

__all__ = ["Circuit", "hash_tokens", "hash_pairs", "hash_data", "known_pairs", "n_known_pairs"]

_FORMAT, _VERSION = "cutaway circuit", 2
_READ = (1, _VERSION)
"""The versions that are read; the first kept hashes of prompts alone."""
_SHAPE = ("n_layers", "n_heads", "n_kv_heads", "block")


@dataclass(frozen=True, repr=False)
class Circuit:
    """Edges of a model's computation graph, in the graph's order, each once, with where they come from.

    `a | b`, `a & b` and `a - b` are circuits of the same model. Raises ValueError for edges that the graph does not have.
    """

    graph: Graph = field(repr=False)
    edges: tuple[Edge, ...] = field(repr=False)
    scores: tuple[float, ...] | None = field(default=None, repr=False)
    """What each edge was found by, if it was by a number."""
    model: str = ""
    """What the model is called."""
    model_hash: str | None = None
    """Of its weights and configuration, as `weights.model_sha256` gives it; None for a circuit that is held to a shape alone."""
    data_hash: str | None = None
    """Of the prompts, as `hash_tokens` gives it."""
    pair_hashes: tuple[str, ...] = field(default=(), repr=False)
    """Of each pair of prompts, as `hash_pairs` gives them."""
    prompts: StoredPrompts | None = field(default=None, repr=False)
    """The pairs themselves, and those it was checked on; None for a circuit that came without them."""
    method: str = ""
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What it was found with, as JSON holds it."""

    def __post_init__(self) -> None:
        given = [None] * len(self.edges) if self.scores is None else list(self.scores)
        if len(given) != len(self.edges):
            raise ValueError(f"there are {len(given)} scores for {len(self.edges)} edges: give one for each")
        places = {self.graph.place(edge): (edge, score) for edge, score in zip(self.edges, given, strict=True)}
        ordered = [places[place] for place in sorted(places)]
        object.__setattr__(self, "edges", tuple(edge for edge, _ in ordered))
        object.__setattr__(self, "scores", None if self.scores is None else tuple(score for _, score in ordered))

    @classmethod
    def of_mask(
        cls,
        graph: Graph,
        kept: Bool[Tensor, "sender receiver"],
        scores: Float[Tensor, "sender receiver"] | None = None,
        **provenance: Any,
    ) -> Circuit:
        """Return the circuit of the edges of a mask, with their scores from a table of all."""
        listed = None if scores is None else tuple(scores.detach().cpu()[kept.cpu()].tolist())
        return cls(graph, tuple(graph.edges_of(kept.cpu())), listed, **provenance)

    def __len__(self) -> int:
        return len(self.edges)

    def __repr__(self) -> str:
        said = [str(self), *([f"of {self.model}"] if self.model else []), *([f"found by {self.method}"] if self.method else [])]
        return f"Circuit({', '.join(said)})"

    def __str__(self) -> str:
        return f"{len(self):,} of {self.graph.n_edges:,} edges, {len(self.nodes)} nodes"

    @cached_property
    def kept(self) -> Bool[Tensor, "sender receiver"]:
        """The edges as a mask of the graph's senders and receivers."""
        return self.graph.mask(self.edges)

    @property
    def share(self) -> float:
        """How many of the graph's edges it keeps, from 0 to 1."""
        return len(self) / self.graph.n_edges

    @property
    def ablation(self) -> How:
        """What it was found under; `resample` where it does not say. Raises ValueError for what is no ablation."""
        how = self.settings.get("ablation", "resample")
        if how not in get_args(How):
            raise ValueError(f"the circuit was found under the ablation {how!r}; expected one of {', '.join(get_args(How))}")
        return how  # type: ignore[no-any-return]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Who sends or receives in it, in the order of the computation: a head's inputs are the head."""
        found = {edge.sender for edge in self.edges}
        found |= {Node(node.kind, node.layer, node.index) for _, node in self.edges if node.kind != "group"}
        return tuple(node for node in (*self.graph.senders, Node("logits")) if node in found)

    @property
    def layer_histogram(self) -> tuple[int, ...]:
        """How many edges each layer's inputs take, the logits' last."""
        return self.graph.layer_histogram(self.kept)

    @property
    def edges_into(self) -> dict[str, int]:
        """How many edges the inputs of each layer take that has some, by its number, and the logits."""
        counts = self.layer_histogram
        names = [*map(str, range(len(counts) - 1)), "logits"]
        return {name: count for name, count in zip(names, counts, strict=True) if count}

    def with_dictionaries(self, *dictionaries: Dictionary) -> Circuit:
        """Return the same with the dictionaries of its features, in any order; raises ValueError for others than it was found with."""
        given = {dictionary_sha256(each): each for each in dictionaries}
        known = {each.sha256 for each in self.graph.features}
        if unknown := [sha256 for sha256 in given if sha256 not in known]:
            raise ValueError(
                f"the circuit has no features of a dictionary with sha256 {unknown[0][:12]}: give "
                + (", ".join(f"that of mlp{each.layer} with {each.sha256[:12]}" for each in self.graph.features) or "none")
            )
        features = tuple(each.given(given[each.sha256]) if each.sha256 in given else each for each in self.graph.features)
        return replace(self, graph=replace(self.graph, features=features))

    def connected(self) -> Circuit:
        """Return the part that lies on paths from the embedding to the logits."""
        return self.keeping(self.graph.edges_of(self.graph.connected(self.kept)))

    def keeping(self, edges: Iterable[Edge]) -> Circuit:
        """Return the same with these edges alone, and the scores that it knows of them."""
        edges = tuple(edges)
        known = {} if self.scores is None else dict(zip(self.edges, self.scores, strict=True))
        return replace(self, edges=edges, scores=tuple(map(known.__getitem__, edges)) if all(e in known for e in edges) else None)

    def __or__(self, other: Circuit) -> Circuit:
        """Return the circuit of the edges of either."""
        return self._with(other, {*self.edges, *other.edges})

    def __and__(self, other: Circuit) -> Circuit:
        """Return the circuit of the edges of both."""
        return self._with(other, set(self.edges) & set(other.edges))

    def __sub__(self, other: Circuit) -> Circuit:
        """Return the circuit of those edges that the other lacks."""
        return self._with(other, set(self.edges) - set(other.edges))

    def _with(self, other: Circuit, edges: set[Edge]) -> Circuit:
        self.check_same_model(other)
        return self.keeping(sorted(edges, key=self.graph.place))

    def check_same_model(self, other: Circuit) -> None:
        """Raise ValueError for a circuit of another model."""
        if _shape_of(self.graph) != _shape_of(other.graph):
            raise ValueError(f"the circuits are of different graphs: {_shown(self.graph)}; {_shown(other.graph)}")
        if None not in (self.model_hash, other.model_hash) and self.model_hash != other.model_hash:
            raise ValueError(f"the circuits are of models with different weights or settings, {self.model!r} and {other.model!r}")

    def check(self, model: Transformer, *, force: bool = False) -> None:
        """Raise ValueError for a model of another shape, or, unless forced, with other weights or settings."""
        if _shape_of_model(model.config) != _shape_of_model(self.graph.config):
            raise ValueError(
                f"the circuit is of a model of another shape: {_shown(self.graph)}; this model has "
                f"{_shown(Graph(model.config, self.graph.kv))}: give the model that it was found in{self._named}"
            )
        if not force and self.model_hash is not None and model_sha256(model) != self.model_hash:
            raise ValueError(
                f"the circuit was found in a model with other weights or settings{self._named}, of the same shape: give that model, "
                "or force it"
            )

    @property
    def _named(self) -> str:
        return f" ({self.model})" if self.model else ""

    def to_json(self) -> str:
        """Return it as text, an edge a line."""
        scores = self.scores or [None] * len(self)
        values = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": {"name": self.model, "sha256": self.model_hash, "config": self.graph.config.to_dict()},
            "data": {
                "sha256": self.data_hash,
                "pairs": list(self.pair_hashes),
                "prompts": None if self.prompts is None else self.prompts.to_dict(),
            },
            "method": self.method,
            "settings": dict(self.settings),
            "command": self.command,
            "kv": self.graph.kv,
            "features": [each.to_dict() for each in self.graph.features],
            "edges": {str(edge): score for edge, score in zip(self.edges, scores, strict=True)},
        }
        return one_line_lists(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """Return the circuit that `to_json` wrote; raises ValueError for a text that is none."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON (line {error.lineno}): give a file that `circuit find --out` wrote") from None
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError(f"it is JSON but no circuit, which begins with the format {_FORMAT!r}")
        if values.get("version") not in _READ:
            raise ValueError(
                f"it is a circuit of version {values.get('version')}, and this cutaway reads {' and '.join(map(str, _READ))}: take the "
                "cutaway that wrote it, or find the circuit again"
            )
        try:
            model, edges, kv = values["model"], values["edges"], values["kv"]
            features = tuple(map(FeatureNodes.from_dict, values.get("features", ())))
            graph = Graph(ModelConfig.from_dict(model["config"]), _checked_kv(kv), features)
            scores = None if None in edges.values() else tuple(map(float, edges.values()))
            hashes, prompts = tuple(values["data"]["pairs"]), values["data"].get("prompts")
            return cls(
                graph,
                tuple(map(graph.parse, edges)),
                scores,
                model=model["name"],
                model_hash=model["sha256"],
                data_hash=values["data"]["sha256"],
                pair_hashes=hashes,
                prompts=None if prompts is None else _checked_prompts(prompts, hashes, graph.config.d_vocab),
                method=values["method"],
                command=values["command"],
                settings=values["settings"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the circuit lacks a field or has one of the wrong kind: {error}") from None

    def save(self, path: Path | str) -> Path:
        """Write it to a file, whole or not at all, and return where."""
        atomic_write(Path(path), self.to_json())
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Circuit:
        """Return the circuit of a file; raises ValueError for one that holds none, FileNotFoundError for none."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}; `cutaway interpret circuit find --out {path}` writes a circuit")
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} holds no circuit: {error}") from None


def hash_tokens(*rows: Int[Tensor, "batch pos"]) -> str:
    """Return the sha256 of prompts: the shape and the ids of each batch in turn."""
    digest = hashlib.sha256()
    for tokens in rows:
        digest.update(f"{tuple(tokens.shape)};".encode())
        digest.update(tokens.detach().cpu().to(torch.int64).contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_pairs(
    tokens: Int[Tensor, "batch pos"], other_tokens: Int[Tensor, "batch other_pos"], lengths: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return a short hash of each pair of prompts, by which a pair is known again among others, whatever fills it up to `lengths`."""
    pairs = zip(tokens.split(1), other_tokens.split(1), strict=True)
    if lengths is None:
        return tuple(hash_tokens(*pair)[:16] for pair in pairs)
    return tuple(hash_tokens(row[:, :n], other[:, :n])[:16] for (row, other), n in zip(pairs, lengths, strict=True))


def known_pairs(n: int) -> str:
    """Return in words how many pairs a circuit was found with."""
    return f"{n} of the pairs {'is' if n == 1 else 'are'} among those it was found with"


def n_known_pairs(
    circuit: Circuit | None,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    lengths: Sequence[int] | None,
) -> int:
    """Return how many of these pairs a circuit was found with."""
    return 0 if circuit is None else sum(each in circuit.pair_hashes for each in hash_pairs(tokens, other_tokens, lengths))


def hash_data(
    tokens: Int[Tensor, "batch pos"], other_tokens: Int[Tensor, "batch other_pos"], lengths: Sequence[int] | None = None
) -> str:
    """Return the sha256 of both runs' prompts; where they are filled up after `lengths`, of what `hash_tokens` gives of each pair."""
    if lengths is None:
        return hash_tokens(tokens, other_tokens)
    each = [hash_tokens(tokens[[row], :n], other_tokens[[row], :n]) for row, n in enumerate(lengths)]
    return hashlib.sha256(";".join(each).encode()).hexdigest()


def _checked_prompts(values: Mapping[str, Any], hashes: tuple[str, ...], d_vocab: int) -> StoredPrompts:
    """Return the prompts of a file; raises ValueError where those that it was found with are not those of the hashes."""
    prompts = StoredPrompts.from_dict(values, d_vocab)
    if pairs := prompts.found_with:
        found = [hash_pairs(torch.tensor([pair.clean]), torch.tensor([pair.corrupted])) for pair in pairs]
        if sum(found, ()) != hashes:
            raise ValueError("its prompts were changed: they are not those of the hashes that stand beside them")
    return prompts


def _checked_kv(kv: Any) -> KVInputs:
    if kv not in get_args(KVInputs):
        raise ValueError(f"kv is {kv!r}; expected one of {', '.join(get_args(KVInputs))}")
    return kv  # type: ignore[no-any-return]


def _shape_of(graph: Graph) -> Sequence[object]:
    return [*_shape_of_model(graph.config), graph.kv, graph.features]


def _shape_of_model(config: ModelConfig) -> Sequence[object]:
    return [*(getattr(config, name) for name in _SHAPE), bool(config.d_mlp)]


def _shown(graph: Graph) -> str:
    config = graph.config
    heads = f"{config.n_heads} heads" + (f" in {config.n_kv_heads} groups" if config.n_kv_heads < config.n_heads else "")
    mlp = "no MLPs" if not config.d_mlp else f"{config.block} MLPs"
    said = [f"{config.n_layers} layers of {heads}", mlp, *(f"{each} (sha256 {each.sha256[:12]})" for each in graph.features)]
    return ", ".join(said)
