"""Paths patched: what one part's output does through one input of another part alone, or through those of several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import edits
from cutaway.interp.edits import Edit
from cutaway.interp.feature_nodes import FeatureNodes, by_layer, check_known
from cutaway.interp.metrics import Metric
from cutaway.interp.nodes import Node, NodeSet, all_senders, parse_receiver_sets, parse_sender
from cutaway.interp.patching.grid import Pairs
from cutaway.interp.path_patching.reach import MLPs, names_of_receivers, names_of_senders, names_on_the_way, place_of, received
from cutaway.interp.path_patching.result import PathPatching
from cutaway.interp.sites import hook_order, norm_scales
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.interp.two_runs import TwoRuns, run_two
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["patch_paths"]

_N_TOKENS = 8192
"""Of how many tokens the first pass is at most, all senders that go through it together."""
_HELD_BYTES = 2**29
"""How much the receivers' inputs may take before the second pass uses them."""


def patch_paths(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    *,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] = ("logits",),
    paths: Sequence[tuple[str, str]] | None = None,
    mlps: MLPs = "recomputed",
    features: Sequence[FeatureNodes] = (),
    frozen_norms: str | Sequence[str] = (),
    receiver_pos: int | Sequence[int] | None = None,
    pairs: Sequence[Pairs] | None = None,
    lengths: Sequence[int] | None = None,
    other_lengths: Sequence[int] | None = None,
    memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PathPatching:
    """Patch the paths from every sender to every receiver, or set of them, and return what the metric becomes.

    A path takes two passes over `tokens`. In the first the sender's output is that of the other run, all other heads keep what they
    write, MLPs keep it too (`mlps="frozen"`) or are recomputed, and the receiver's input is noted. In the second the receiver's input
    is what was noted, at all positions or at `receiver_pos`, and everything after it is recomputed; for `logits` the first pass is all.
    Norms divide by scales recomputed in both passes, but for those named, or matched by a glob, in `frozen_norms`.

    Receivers joined by + take their inputs together, as the queries of all name movers do in Wang et al. (`L9H9.q+L9H6.q+L10H0.q`);
    others one at a time. A set's effect is the sum of its members' only where these do not act on each other or saturate; each member
    takes what was noted, whatever others of the set would make of it.

    Senders are `embed`, heads such as `L9H6`, MLPs such as `mlp3`, neurons such as `mlp3.17`; unless given the embedding, all heads
    and all MLPs. The chosen features of a dictionary (`features`) are senders and receivers such as `mlp3.f12`, and `mlp3` is then
    what they leave of that MLP. Receivers are `logits`, one input of a head such as `L9H6.q` (`L9H6` is all three), MLPs and
    neurons; where heads share keys and values, `L9G2.k` are those of a group, and `L9H6.k` those that head 6 sees, and no other
    head's. `paths` names the pairs of a sender and a receiver to patch, where that is not every one with every other. `pairs` say
    for each row which positions of the other run go to which of this, equal ones unless given; `lengths` are each row's tokens
    where rows are filled up on the right. Raises ValueError for parts and norms that the model does not have, for logits in a set,
    and for runs of different length without pairs.
    Source: Wang et al. 2022, "Interpretability in the Wild", section 3.1; Goldowsky-Dill et al. 2023, "Localizing Model
    Behavior with Path Patching".

    >>> import cutaway
    >>> from cutaway import metrics, path_patching
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> path_patching.patch_paths(lm.model, clean, corrupted, answer, receivers=["L1H1.k"]).ranked()[0].sender
    'L0H2'
    """
    config = model.config
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps is {mlps!r}; expected frozen or recomputed")
    known = by_layer([each.open(model) for each in features])
    writing, reading, wanted = _nodes(config, senders, receivers, paths, known)
    frozen = norm_scales(config, frozen_norms)
    noting = list(dict.fromkeys(node for receiver in reading for node in receiver.nodes))
    written = names_of_senders(writing, known)
    model = without_dropout(model)
    with torch.no_grad():
        names = written | names_of_receivers(noting, config.n_layers) | names_on_the_way(model, frozen, known)
        runs = run_two(
            model, tokens, other_tokens, metric, names,
            other_names=written, pairs=pairs, lengths=lengths, other_lengths=other_lengths,
        )  # fmt: skip
        places, read = _places(receiver_pos, runs), _places(metric.pos if isinstance(metric, Metric) else None, runs)
        table = _Table(runs, metric, writing, reading, wanted, frozen, places, read, memory_gib, progress, known)
        table.fill(mlps)
    return PathPatching(
        senders=tuple(writing),
        receivers=tuple(reading),
        scores=table.scores,
        base=table.base,
        other=runs.other,
        mlps=mlps,
        frozen_norms=frozen,
        receiver_pos=None if places is None else tuple(places.pos),
    )


def _nodes(
    config: ModelConfig,
    senders: Sequence[str] | None,
    receivers: Sequence[str],
    paths: Sequence[tuple[str, str]] | None,
    features: Mapping[int, FeatureNodes],
) -> tuple[Sequence[Node], Sequence[Node | NodeSet], Bool[Tensor, "sender receiver"]]:
    """Return who sends, in the order of the computation, and who receives, each once, and which paths between them are asked for."""
    if paths is not None and (senders is not None or tuple(receivers) != ("logits",)):
        raise ValueError("paths name their senders and receivers themselves: give either paths, or senders and receivers")
    ends = [(parse_sender(config, each), parse_receiver_sets(config, name)) for each, name in paths or ()]
    writing = [sender for sender, _ in ends]
    reading = [each for _, read in ends for each in read]
    if paths is None:
        of_all = [node for each in features.values() for node in each.nodes]
        writing = all_senders(config, of_all) if senders is None else [parse_sender(config, each) for each in senders]
        reading = [each for name in receivers for each in parse_receiver_sets(config, name)]
    if not writing or not reading:
        raise ValueError("there is nothing to patch: name at least one sender and one receiver")
    check_known([*writing, *(node for each in reading for node in each.nodes)], features)
    if joined := [each for each in reading if isinstance(each, NodeSet) and any(_is_part(node, features) for node in each.nodes)]:
        raise ValueError(f"{joined[0]}: parts of an MLP that is taken apart join no set: name them by themselves")
    writing, reading = sorted(dict.fromkeys(writing), key=lambda node: node.order), list(dict.fromkeys(reading))
    rows, columns = {node: i for i, node in enumerate(writing)}, {node: i for i, node in enumerate(reading)}
    wanted = torch.full((len(writing), len(reading)), paths is None)
    for sender, read in ends:
        for each in read:
            wanted[rows[sender], columns[each]] = True
    return writing, reading, wanted


def _is_part(node: Node, features: Mapping[int, FeatureNodes]) -> bool:
    return node.kind in ("mlp", "feature", "neuron") and node.layer in features


@dataclass
class _Table:
    """The second pass: one cell of a sweep for each path, run when as many are noted as may be held."""

    runs: TwoRuns
    metric: AnyMetric
    senders: Sequence[Node]
    receivers: Sequence[Node | NodeSet]
    wanted: Bool[Tensor, "sender receiver"]
    """The paths that are asked for."""
    frozen: Sequence[str]
    places: _Places | None
    """Where receivers take what they are given; None for everywhere."""
    read: _Places | None
    """What the metric reads of the last residual stream."""
    memory_gib: float | None
    progress: Callable[[int, int], None] | None
    features: Mapping[int, FeatureNodes]
    cells: list[tuple[int, int, list[Edit]]] = field(default_factory=list)
    noted: dict[int, list[Mapping[int, Edit]]] = field(default_factory=dict)
    """Of receivers that are sets, what their members take from each sender, until all members are noted."""
    n_bytes: int = 0
    n_done: int = 0

    def __post_init__(self) -> None:
        shape = len(self.senders), len(self.receivers), len(self.runs.tokens)
        self.scores = self.runs.base.new_full(shape, torch.nan)
        self.base = self.runs.base
        self.columns: dict[Node, list[int]] = {}
        for column, receiver in enumerate(self.receivers):
            for node in receiver.nodes:
                self.columns.setdefault(node, []).append(column)
        self.kept = self._kept()

    def fill(self, mlps: MLPs) -> None:
        """Note what receivers read of every sender, so many senders at a time, and run it."""
        noting, kept = list(self.columns), self.kept
        n = max(1, _N_TOKENS // max(1, len(self.runs.tokens) * len(kept)))
        for first in range(0, len(self.senders), n):
            some = slice(first, first + n)
            wanted = {node: self.wanted[some, columns].any(1) for node, columns in self.columns.items()}
            for node, sent, values in received(
                self.runs, self.senders[some], noting, wanted=wanted, mlps=mlps, frozen=self.frozen, kept=kept,
                features=self.features,
            ):  # fmt: skip
                self.take(node, [first + i for i in sent], values)
        self.flush()

    def take(self, node: Node, senders: Sequence[int], values: Float[Tensor, "sender batch kept_pos ..."]) -> None:
        """Note a receiver's inputs, at the kept positions, for these senders; make the cells that are then complete."""
        places = self._places_of(node)
        whole = self._own(node)
        whole = whole.expand(len(values), *whole.shape).clone()
        whole[:, :, self.kept] = values
        values = whole
        if places is not None:
            rows = torch.arange(values.shape[1], device=values.device)[:, None]
            values = values[:, rows, places.of_row.to(values.device)]
        noted = {i: self._edit(node, value.clone(), places and places.pos) for i, value in zip(senders, values, strict=True)}
        self.n_bytes += values.nbytes
        for column in self.columns[node]:
            self.noted.setdefault(column, []).append(noted)
            if len(self.noted[column]) == len(self.receivers[column].nodes):
                self._make_cells(column, self.noted.pop(column))
        if self.n_bytes > _HELD_BYTES:
            self.flush()

    def _make_cells(self, column: int, noted: Sequence[Mapping[int, Edit]]) -> None:
        """Add the cells of one receiver, for all senders that write before any of its nodes reads."""
        held = list(self._held_norms(self.receivers[column]))
        for sender in sorted({sender for of_node in noted for sender in of_node}):
            if self.wanted[sender, column]:
                taken = [of_node[sender] for of_node in noted if sender in of_node]
                self.cells.append((sender, column, [*taken, *held]))

    def flush(self) -> None:
        """Run what is noted."""
        if not self.cells:
            return
        runs = self.runs
        n_all = int(self.wanted.sum()) * len(runs.tokens)
        progress = self.progress

        def tell(n_cells: int, _n_all: int) -> None:
            if progress is not None:
                progress(min(self.n_done * len(runs.tokens) + n_cells, n_all), n_all)  # the run itself is among the cells

        variants: list[list[Edit]] = [*(variant for _, _, variant in self.cells), []]  # the last is the run itself
        found = sweep(
            runs.model, runs.tokens, variants, self.metric, lengths=runs.lengths, memory_gib=self.memory_gib, progress=tell
        )
        for (row, column, _), each in zip(self.cells, found, strict=False):
            self.scores[row, column] = each
        self.base = found[-1]
        self.n_done += len(self.cells)
        self.cells, self.n_bytes = [], 0

    def _places_of(self, node: Node) -> _Places | None:
        return self.read if node.kind == "logits" else self.places

    def _name_of(self, node: Node) -> str:
        (name,) = names_of_receivers([node], self.runs.model.config.n_layers)
        return name

    def _own(self, node: Node) -> Float[Tensor, "batch pos ..."]:
        """Return the input that a receiver has in the run."""
        x, place = self.runs.cache[self._name_of(node)], place_of(node, self.runs.model.config)
        return x if place is None else x.select(-1 if node.kind == "neuron" else 2, place)

    def _kept(self) -> Int[Tensor, " kept_pos"]:
        """Return the positions that senders can move and receivers take."""
        taken = torch.zeros_like(self.runs.tokens, dtype=torch.bool)
        for node in self.columns:
            places = self._places_of(node)
            taken |= True if places is None else torch.zeros_like(taken).scatter(1, places.of_row.to(taken.device), True)
        return (taken & ~self.runs.same()).any(0).nonzero()[:, 0]

    def _edit(self, node: Node, value: Tensor, pos: list[int] | None) -> Edit:
        name, config = self._name_of(node), self.runs.model.config
        if node.kind == "head" and node.input != "q" and config.n_kv_heads < config.n_heads:
            return edits.replace(name, value, query_head=node.index, pos=pos)
        if node.kind in ("head", "group"):
            return edits.replace(name, value, head=node.index, pos=pos)
        return edits.replace(name, value, pos=pos, index=place_of(node, config))

    def _held_norms(self, receiver: Node | NodeSet) -> Iterator[Edit]:
        """Yield the edits that hold frozen norms after what the receiver first reads."""
        order = hook_order(self.runs.model.config)
        first = min(order[self._name_of(node)] for node in receiver.nodes)
        for scale in self.frozen:
            if order[scale] > first:
                yield edits.replace(scale, self.runs.cache[scale])


class _Places(NamedTuple):
    """Some positions of each row."""

    pos: list[int]
    of_row: Int[Tensor, "batch n"]
    """The same, counted from each row's beginning."""


def _places(pos: int | Sequence[int] | None, runs: TwoRuns) -> _Places | None:
    if pos is None:
        return None
    given = [pos] if isinstance(pos, int) else list(pos)
    n_least = min(runs.lengths)
    if wrong := [each for each in given if not -n_least <= each < n_least]:
        raise ValueError(f"there is no position {wrong[0]} in every row: the shortest has {n_least} tokens")
    return _Places(given, torch.tensor([[each % length for each in given] for length in runs.lengths]))
