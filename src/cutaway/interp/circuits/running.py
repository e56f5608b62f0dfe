"""Circuits run: every receiver reads the kept senders as they write now, and all others as they write when ablated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict, Unpack

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.interp.ablation import How
from cutaway.interp.circuits.ablated import Ablated, ablated_outputs
from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.graph import Graph
from cutaway.interp.editing import row_lengths
from cutaway.interp.factored import block_of
from cutaway.interp.metrics import Metric
from cutaway.interp.sweep import AnyMetric
from cutaway.interp.sweep.reading import read_resid
from cutaway.interp.two_runs import scored
from cutaway.model import Block, Transformer
from cutaway.model.attention import fused_attend
from cutaway.views import without_dropout

__all__ = ["CircuitRuns", "RunOptions", "run_circuit", "circuit_metric"]

_MEMORY_GIB = 1.0
_SPARSE = 4
"""Adding up what is kept is faster than one matrix product where less than 1 in so many is."""


class RunOptions(TypedDict, total=False):
    """What `CircuitRuns.of` takes besides model, tokens and circuit."""

    ablation: How
    """What is put in the place of what is outside; `resample` unless given."""
    other_tokens: Int[Tensor, "batch other_pos"] | None
    reference: Int[Tensor, "reference reference_pos"] | None
    over_positions: bool
    lengths: Sequence[int] | None
    """Each row's tokens, in both runs, where rows are filled up on the right: metrics read where a row ends."""
    memory_gib: float
    force: bool
    """Whether a circuit may be run in a model of its shape with other weights."""


def run_circuit(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    circuit: Circuit,
    **options: Unpack[RunOptions],
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of a run in which everything outside the circuit is ablated.

    The input of each receiver is the residual stream with every sender to which it has no kept edge replaced by its ablated output
    (`ablated_outputs` says which, `RunOptions` how it is asked for); kept senders carry what they write in this run. With every edge
    kept it is the model's own run, with none kept and `resample` that of `other_tokens`. Raises ValueError for a circuit of another
    model, unless forced for other weights alone, and for runs of different length.
    Source: Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability", section 3.
    """
    return CircuitRuns.of(model, tokens, circuit, **options).logits(circuit.kept)


def circuit_metric(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    circuit: Circuit,
    metric: AnyMetric,
    **options: Unpack[RunOptions],
) -> Float[Tensor, " batch"]:
    """Return a metric of each row of `run_circuit`, computing those logits alone that it reads."""
    return CircuitRuns.of(model, tokens, circuit, **options).metric(circuit.kept, metric)


@dataclass(frozen=True, eq=False)
class CircuitRuns:
    """Runs of many circuits on the same rows: what is ablated is computed once, and of a circuit only what leads to the logits.

    Rows go together as memory allows. The model is used part by part, from outside, and holds nothing of it.
    """

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    graph: Graph
    ablated: Ablated
    memory_gib: float = _MEMORY_GIB
    lengths: Sequence[int] | None = None
    """Each row's tokens, where rows are filled up on the right; None where none is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", row_lengths(self.model, self.tokens, self.lengths))
        object.__setattr__(self, "model", without_dropout(self.model))

    @classmethod
    def of(
        cls,
        model: Transformer,
        tokens: Int[Tensor, "batch pos"],
        circuit: Circuit,
        *,
        ablation: How = "resample",
        other_tokens: Int[Tensor, "batch other_pos"] | None = None,
        reference: Int[Tensor, "reference reference_pos"] | None = None,
        over_positions: bool = False,
        lengths: Sequence[int] | None = None,
        memory_gib: float = _MEMORY_GIB,
        force: bool = False,
    ) -> CircuitRuns:
        """Return the runs of a circuit's graph, after making sure that it is the model's."""
        circuit.check(model, force=force)
        graph = circuit.graph.open(model, force=force)
        ablated = ablated_outputs(
            model, tokens, ablation, other_tokens=other_tokens, reference=reference, over_positions=over_positions, lengths=lengths,
            features=graph.features,
        )  # fmt: skip
        return cls(model, tokens, graph, ablated, memory_gib, lengths)

    def logits(self, kept: Bool[Tensor, "sender receiver"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits with these edges kept."""
        with torch.no_grad():
            return torch.cat([self.model.unembed(resid) for _, resid in self._read(kept, 0)])

    def metric(self, kept: Bool[Tensor, "sender receiver"], metric: AnyMetric) -> Float[Tensor, " batch"]:
        """Return a metric of each row with these edges kept."""
        if not isinstance(metric, Metric):
            if self.lengths is not None:
                raise ValueError("a function of full logits cannot tell where shorter rows end: give a metric of cutaway.metrics")
            return scored(metric, self.logits(kept))
        n_rows, n_pos = self.tokens.shape
        metric.check(n_rows, n_pos, self.model.config.d_vocab_out)
        positions = [metric.positions(length) for length in self.lengths or (n_pos,) * n_rows]
        first = min(self.ablated.n_same, *(pos for row in positions for pos in row))
        with torch.no_grad():
            return torch.cat(
                [
                    read_resid(self.model, metric, x[None, [pos - first for pos in positions[row]]], row, positions[row])
                    for rows, resid in self._read(kept, first)
                    for row, x in enumerate(resid, rows.start)
                ]
            )

    @cached_property
    def nothing(self) -> Bool[Tensor, "sender receiver"]:
        """The mask that keeps no edge."""
        return torch.zeros_like(self.graph.has_edge)

    @cached_property
    def everything(self) -> Bool[Tensor, "sender receiver"]:
        """The mask that keeps every edge."""
        return self.graph.has_edge

    def _read(
        self, kept: Bool[Tensor, "sender receiver"], first: int
    ) -> Iterator[tuple[slice, Float[Tensor, "rows last_pos d_model"]]]:
        """Yield what the logits read from a position on, before which nothing differs from the corrupted run; some rows at a time.

        With every edge kept that is what the model's own run gives.
        """
        used = self.graph.used(kept)
        is_whole = bool((kept | ~self.graph.has_edge).all())
        n = self._n_rows(int(used.sum()))
        for start in range(0, len(self.tokens), n):
            rows = slice(start, min(start + n, len(self.tokens)))
            if is_whole:
                yield rows, self.model.run_blocks(self.model.embed(self.tokens[rows]))[:, first:]
                continue
            walk = _Walk(self.model, self.tokens[rows, first:], self.graph, self.ablated.part(rows, first), kept, used)
            yield rows, walk.to_logits()

    def _n_rows(self, n_used: int) -> int:
        """Return how many rows fit the memory: kept senders' changes, one layer's inputs as they are, normed and being summed."""
        config = self.model.config
        widest = n_used + 3 * (config.n_heads + 2 * config.n_kv_heads + 1) + 4 * max(1, config.d_mlp // config.d_model)
        widest += max((3 * len(each.features) for each in self.graph.features), default=0)
        row_bytes = widest * self.tokens.shape[1] * config.d_model * max(4, self.model.embed.W_E.element_size())
        return max(1, int(self.memory_gib * 2**30 / row_bytes))


class _Walk:
    """One pass over some rows: the ablated stream, and by how much each sender that is used differs from what it is when ablated.

    Both are kept in float32 where weights are coarser, as changes are differences of what is nearly alike: receivers read them in the
    weights' own dtype, rounded once.
    """

    def __init__(
        self,
        model: Transformer,
        tokens: Int[Tensor, "batch pos"],
        graph: Graph,
        ablated: Ablated,
        kept: Bool[Tensor, "sender receiver"],
        used: Bool[Tensor, " sender"],
    ) -> None:
        positions = ablated.n_same + torch.arange(tokens.shape[1], device=tokens.device)
        embed = model.embed(tokens, positions)
        self.dtype, embed = embed.dtype, embed.to(torch.promote_types(embed.dtype, torch.float32))
        self.model, self.graph, self.ablated, self.used = model, graph, ablated, used.tolist()
        self.kept = kept[used].T.to(embed)  # receiver slot: one for each sender that is used, in the order of the computation
        self.changes = embed.new_empty(self.kept.shape[1], *embed.shape)  # slot batch pos d_model
        self.n_written = 0
        self.stream = ablated.embed.to(embed).expand_as(embed)
        self.rotation = None if model.rotary is None else model.rotary.rotation(positions)
        self.qk_offset = 0 if model.qk_positions is None else model.qk_positions(positions)
        if self.used[0]:
            self._write((embed - self.stream)[None])

    def to_logits(self) -> Float[Tensor, "batch pos d_model"]:
        """Return what the logits read."""
        for layer in range(self.model.config.n_layers):
            block = block_of(self.model, layer)
            early = self._mlp(block, layer) if block.is_parallel else None  # it reads what attention reads
            self._attend(block, layer)
            changes = early if block.is_parallel else self._mlp(block, layer)
            if changes is not None:
                self._write(changes)
            if block.mlp is not None:
                self.stream = self.stream + self.ablated.mlp_out[layer]
        return self._inputs([len(self.graph.receivers) - 1])[0][0]

    def _attend(self, block: Block, layer: int) -> None:
        """Go past attention: compute the heads that are used, each from its own queries, keys and values."""
        attn, z = block.attn, self.ablated.z[layer]
        first = self.graph.first_sender(layer)
        heads = [head for head in range(attn.n_heads) if self.used[first + head]]
        if heads:
            changed = self._heads(block, layer, heads).to(self.stream) - z[:, :, heads]
            W_O = attn.W_O.weight.to(self.stream).unflatten(1, (attn.n_heads, attn.d_head))[:, heads]  # d_model head d_head
            after = einsum(changed, W_O, "batch pos head d_head, d_model head d_head -> head batch pos d_model")
            self._write(after)
        self.stream = self.stream + attn.W_O(z.flatten(-2))

    def _heads(self, block: Block, layer: int, heads: list[int]) -> Float[Tensor, "batch pos head d_head"]:
        """Return what these heads read of their values."""
        attn, receivers = block.attn, self.graph.head_receivers(layer)
        groups = [head // (attn.n_heads // attn.n_kv_heads) for head in heads]
        is_shared = len(receivers["k"]) < attn.n_heads  # a group's keys are received once, for all its heads
        own = sorted(set(groups)) if is_shared else heads
        of_weights = own if is_shared else groups
        reading = [receivers["q"][head] for head in heads], [receivers["k"][i] for i in own], [receivers["v"][i] for i in own]
        inputs, places = self._inputs([each for some in reading for each in some])
        normed = block.ln1(inputs)
        of_q, of_k, of_v = torch.tensor(places).split([len(each) for each in reading])
        q = self._projected(attn.W_Q, normed + self.qk_offset, of_q, heads)
        k = self._projected(attn.W_K, normed + self.qk_offset, of_k, of_weights)
        v = self._projected(attn.W_V, normed, of_v, of_weights)
        if self.rotation is not None:
            q, k = self.rotation.turn(q), self.rotation.turn(k)
        if self.ablated.n_same:
            k = torch.cat([self.ablated.same_k[layer][:, :, of_weights], k], dim=1)
            v = torch.cat([self.ablated.same_v[layer][:, :, of_weights], v], dim=1)
        if is_shared:
            of_head = [own.index(group) for group in groups]
            k, v = k[:, :, of_head], v[:, :, of_head]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # batch head pos d_head
        z: Tensor = fused_attend(q, k, v, "causal" if self.model.config.is_causal else None)
        return z.transpose(1, 2)

    def _projected(
        self, writer: nn.Linear, normed: Float[Tensor, "input batch pos d_model"], places: Int[Tensor, " head"], heads: list[int]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Return queries, keys or values, each head's from its own input."""
        weight = writer.weight.unflatten(0, (-1, self.model.config.d_head))[heads]  # head d_head d_model
        x: Tensor = einsum(normed[places], weight, "head batch pos d_model, head d_head d_model -> batch pos head d_head")
        if writer.bias is not None:
            x = x + writer.bias.unflatten(0, (-1, self.model.config.d_head))[heads]
        return x

    def _mlp(self, block: Block, layer: int) -> Float[Tensor, "slot batch pos d_model"] | None:
        """Return by how much the MLP's output differs, and its features' where it is taken apart, of those used; None without any."""
        senders, receivers = self.graph.mlp_senders(layer), self.graph.mlp_receivers(layer)
        used = [i for i, sender in enumerate(senders) if self.used[sender]]
        if not used:
            return None
        inputs, places = self._inputs([receivers[i] for i in used])
        instead, features = self.ablated.mlp_out[layer], self.graph.features_of(layer)
        if features is None:
            return (self._whole_mlp(block, inputs[0]).to(self.stream) - instead)[None]
        latents = self.ablated.latents[layer]
        changes = self.stream.new_empty(len(used), *self.stream.shape)
        for i, x in enumerate(inputs):  # nodes that read the same are computed together
            slots = [slot for slot, place in enumerate(places) if place == i]
            chosen = [used[slot] - 1 for slot in slots]  # among the features; -1 is the rest
            asked = range(len(features.features)) if -1 in chosen else chosen
            output = self._whole_mlp(block, x) if -1 in chosen else None
            now = features.latents(block, x, [features.features[each] for each in asked], output=output).to(self.stream)
            moved = now - latents[:, :, list(asked)]
            for slot, each in zip(slots, chosen, strict=True):
                if output is not None and each < 0:
                    changes[slot] = output.to(self.stream) - instead - features.written(moved)
                else:
                    changes[slot] = moved[..., asked.index(each), None] * features.directions[each].to(moved)
        return changes

    def _whole_mlp(self, block: Block, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        norm = block.ln1 if block.ln2 is None else block.ln2
        return block.mlp(norm(x))  # type: ignore[misc, no-any-return]

    def _inputs(self, receivers: list[int]) -> tuple[Float[Tensor, "input batch pos d_model"], list[int]]:
        """Return what receivers read of the stream, kept senders as they are now and the others ablated: each input once, and whose."""
        if not self.n_written:
            return self.stream[None].to(self.dtype), [0] * len(receivers)
        columns, places = self.kept[receivers, : self.n_written].unique(dim=0, return_inverse=True)
        changes = self.changes[: self.n_written]
        if columns.sum() * _SPARSE < columns.numel():
            moved = torch.stack([changes[column.nonzero()[:, 0]].sum(0) for column in columns])
        else:
            moved = (columns @ changes.flatten(1)).unflatten(1, self.stream.shape)  # input sender, sender (batch pos d_model)
        return (moved + self.stream).to(self.dtype), places.tolist()

    def _write(self, changes: Float[Tensor, "slot batch pos d_model"]) -> None:
        """Add the senders that come next."""
        self.changes[self.n_written : self.n_written + len(changes)] = changes
        self.n_written += len(changes)
