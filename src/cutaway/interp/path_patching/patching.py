"""Paths patched one at a time: what one part's output does through one input of another part alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import edits
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.nodes import Node, all_senders, parse_receivers, parse_sender
from cutaway.interp.patching.grid import Pairs
from cutaway.interp.path_patching.reach import MLPs, names_of_receivers, names_of_senders, names_on_the_way, received
from cutaway.interp.path_patching.result import PathPatching
from cutaway.interp.refactoring import ungroup_heads
from cutaway.interp.sites import hook_order, norm_scales
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.interp.two_runs import TwoRuns, run_two
from cutaway.model import Transformer
from cutaway.runtime import evaluating

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
    mlps: MLPs = "recomputed",
    frozen_norms: str | Sequence[str] = (),
    receiver_pos: int | Sequence[int] | None = None,
    pairs: Sequence[Pairs] | None = None,
    lengths: Sequence[int] | None = None,
    other_lengths: Sequence[int] | None = None,
    memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PathPatching:
    """Patch the paths from every sender to every receiver, one at a time, and return what the metric becomes.

    A path takes two passes over `tokens`. In the first the sender's output is that of the other run, all other heads keep what they
    write, MLPs keep it too (`mlps="frozen"`) or are recomputed, and the receiver's input is noted. In the second the receiver's input
    is what was noted, at all positions or at `receiver_pos`, and everything after it is recomputed; for `logits` the first pass is all.
    Norms divide by scales recomputed in both passes, but for those named, or matched by a glob, in `frozen_norms`.

    Receivers are patched one at a time. Wang et al. patch the paths from a sender to a set of receivers together, as to the queries of
    all name movers: the effects of its members add up to the set's only where they do not act on each other or saturate.

    Senders are `embed`, heads such as `L9H6`, MLPs such as `mlp3`, neurons such as `mlp3.17`; unless given the embedding, all heads and
    all MLPs. Receivers are `logits`, one input of a head such as `L9H6.q` (`L9H6` is all three), MLPs and neurons; where heads share
    keys and values, `L9H6.k` are those that head 6 sees, and no other head's. `pairs` say for each row which positions of the other run
    go to which of this, equal ones unless given; `lengths` are each row's tokens where rows are filled up on the right. Raises
    ValueError for parts and norms that the model does not have, and for runs of different length without pairs.
    Source: Wang et al. 2022, "Interpretability in the Wild", section 3.1; Goldowsky-Dill et al. 2023, "Localizing Model
    Behavior with Path Patching".

    >>> found = patch_paths(model, clean, corrupted, metrics.logit_diff(3, 5), receivers=["L1H2.k"])  # doctest: +SKIP
    >>> found.ranked()[0]  # doctest: +SKIP
    """
    config = model.config
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps is {mlps!r}; expected frozen or recomputed")
    writing, reading = _nodes(config, senders, receivers)
    frozen = norm_scales(config, frozen_norms)
    if config.n_kv_heads < config.n_heads and any(node.input in ("k", "v") for node in reading):
        model = ungroup_heads(model)
    written = names_of_senders(writing)
    with evaluating(model), torch.no_grad():
        names = written | names_of_receivers(reading, config.n_layers) | names_on_the_way(model, frozen)
        runs = run_two(
            model, tokens, other_tokens, metric, names,
            other_names=written, pairs=pairs, lengths=lengths, other_lengths=other_lengths,
        )  # fmt: skip
        places, read = _places(receiver_pos, runs), _places(metric.pos if isinstance(metric, Metric) else None, runs)
        table = _Table(runs, metric, writing, reading, frozen, places, read, memory_gib, progress)
        kept = table.kept
        n = max(1, _N_TOKENS // max(1, len(tokens) * len(kept)))
        for first in range(0, len(writing), n):
            for receiver, values in received(runs, writing[first : first + n], reading, mlps=mlps, frozen=frozen, kept=kept):
                table.take(receiver, values, first)
        table.flush()
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


def _nodes(config: ModelConfig, senders: Sequence[str] | None, receivers: Sequence[str]) -> tuple[Sequence[Node], Sequence[Node]]:
    """Return who sends, in the order of the computation, and who receives, each once."""
    writing = all_senders(config) if senders is None else [parse_sender(config, each) for each in senders]
    reading = [node for each in receivers for node in parse_receivers(config, each)]
    if not writing or not reading:
        raise ValueError("there is nothing to patch: name at least one sender and one receiver")
    return sorted(dict.fromkeys(writing), key=lambda node: node.order), list(dict.fromkeys(reading))


@dataclass
class _Table:
    """The second pass: one cell of a sweep for each path, run when as many are noted as may be held."""

    runs: TwoRuns
    metric: AnyMetric
    senders: Sequence[Node]
    receivers: Sequence[Node]
    frozen: Sequence[str]
    places: _Places | None
    """Where receivers take what they are given; None for everywhere."""
    read: _Places | None
    """What the metric reads of the last residual stream."""
    memory_gib: float | None
    progress: Callable[[int, int], None] | None
    cells: list[tuple[int, int, list[Edit]]] = field(default_factory=list)
    n_bytes: int = 0
    n_done: int = 0

    def __post_init__(self) -> None:
        shape = len(self.senders), len(self.receivers), len(self.runs.tokens)
        self.scores = self.runs.base.new_full(shape, torch.nan)
        self.base = self.runs.base
        self.kept = self._kept()

    def take(self, receiver: Node, values: Float[Tensor, "sender batch kept_pos ..."], first: int) -> None:
        """Note the receiver's inputs, at the kept positions, for senders from the `first` on."""
        places, column = self._places_of(receiver), self.receivers.index(receiver)
        (name,) = names_of_receivers([receiver], self.runs.model.config.n_layers)
        whole = self.runs.cache[name]
        whole = whole if receiver.index is None else whole.select(2 if receiver.kind == "head" else -1, receiver.index)
        whole = whole.expand(len(values), *whole.shape).clone()
        whole[:, :, self.kept] = values
        values = whole
        if places is not None:
            rows = torch.arange(values.shape[1], device=values.device)[:, None]
            values = values[:, rows, places.of_row.to(values.device)]
        held = list(self._held_norms(receiver))
        for i, value in enumerate(values):
            self.cells.append((first + i, column, [self._edit(receiver, value.clone(), places and places.pos), *held]))
            self.n_bytes += value.nbytes
        if self.n_bytes > _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Run what is noted."""
        if not self.cells:
            return
        runs = self.runs
        n_all = self.scores.numel()
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

    def _places_of(self, receiver: Node) -> _Places | None:
        return self.read if receiver.kind == "logits" else self.places

    def _kept(self) -> Int[Tensor, " kept_pos"]:
        """Return the positions that senders can move and receivers take."""
        taken = torch.zeros_like(self.runs.tokens, dtype=torch.bool)
        for receiver in self.receivers:
            places = self._places_of(receiver)
            taken |= True if places is None else torch.zeros_like(taken).scatter(1, places.of_row.to(taken.device), True)
        return (taken & ~self.runs.same()).any(0).nonzero()[:, 0]

    def _edit(self, receiver: Node, value: Tensor, pos: list[int] | None) -> Edit:
        (name,) = names_of_receivers([receiver], self.runs.model.config.n_layers)
        if receiver.kind == "head":
            return edits.replace(name, value, head=receiver.index, pos=pos)
        return edits.replace(name, value, pos=pos, index=receiver.index)

    def _held_norms(self, receiver: Node) -> Iterator[Edit]:
        """Yield the edits that hold frozen norms after what the receiver reads."""
        order = hook_order(self.runs.model.config)
        (name,) = names_of_receivers([receiver], self.runs.model.config.n_layers)
        for scale in self.frozen:
            if order[scale] > order[name]:
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
