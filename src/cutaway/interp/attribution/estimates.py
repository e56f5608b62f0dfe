"""What a patch would do, estimated from gradients: to first order, through the softmax where that saturates, or along a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.attribution.nodes import NodeKind, PerNode, by_unit, names_of
from cutaway.interp.cache import ActivationCache
from cutaway.interp.running import gradients
from cutaway.interp.two_runs import TwoRuns

__all__ = ["Completeness", "first_order", "through_softmax", "along_inputs", "along_activations", "middles"]


class Completeness(NamedTuple):
    """The embedding's integrated gradients summed, and the difference of the metric that they come to as steps grow."""

    total: float
    difference: float


_Metric = Callable[[Tensor], Tensor]


def first_order(runs: TwoRuns, grads: ActivationCache, kinds: Sequence[NodeKind]) -> dict[NodeKind, list[PerNode]]:
    """Return for every layer the change of each node times the metric's gradient there."""
    config = runs.model.config
    return {kind: [by_unit(runs.moved(name) * grads[name], name) for name in names_of(config, kind)] for kind in kinds}


def through_softmax(
    runs: TwoRuns, grads: ActivationCache, kind: NodeKind, *, by_position: bool
) -> list[Float[Tensor, "batch head pos"]]:
    """Return for every layer what queries or keys do through the pattern that they make, to first order in that.

    Patterns are computed anew from the patched scores, and their change is multiplied with the metric's gradient there. Several
    positions' keys change a query's pattern together, and not by the sum of what each does: by position each key is patched alone, and
    otherwise all at once, in one number a head.
    Source: Kramár et al. 2024, "AtP*", section 3.1.1.
    """
    found = []
    for layer in range(runs.model.config.n_layers):
        pattern, grad = runs.cache["pattern", layer], grads["pattern", layer]
        hidden = runs.cache["attn_scores", layer].isneginf()
        q, k = _turned(runs, "q", layer), _turned(runs, "k", layer)
        new = _turned(runs, kind, layer, is_incoming=True)
        if kind == "q":
            found.append(((_pattern(new, k, hidden) - pattern) * grad).sum(-1))
        elif by_position:
            found.append(_each_key(q, k, new, hidden, pattern, grad))
        else:
            found.append(((_pattern(q, new, hidden) - pattern) * grad).sum((-1, -2))[..., None])
    return found


def along_inputs(
    runs: TwoRuns, metric: _Metric, kinds: Sequence[NodeKind], *, steps: int
) -> tuple[dict[NodeKind, list[PerNode]], Completeness]:
    """Return first-order estimates with gradients averaged along the straight line between the embeddings of the two runs.

    Beside them stands their sum over the embedding, and what that comes to as steps grow: the metric at the end of the line less that
    at its beginning. Steps are the middles of equal parts.
    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3, of the embeddings; for other nodes Hanna et
    al. 2024, "Have Faith in Faithfulness".
    """
    config = runs.model.config
    names = [name for kind in {*kinds, "embed"} for name in names_of(config, kind)]
    start, end = runs.cache["embed"], runs.incoming("embed")
    total: dict[str, Tensor] = {}
    for share in middles(steps):
        point = edits.replace("embed", torch.lerp(start, end, share))
        _, _, grads = gradients(runs.model, runs.tokens, metric, names, edits=[point])
        total = {name: grads[name] / steps + total.get(name, 0.0) for name in names}
    mean = ActivationCache(total, model=runs.model, tokens=runs.tokens)
    at_end = gradients(runs.model, runs.tokens, metric, ["embed"], edits=[edits.replace("embed", end)])[0]
    summed = by_unit((end - start) * total["embed"], "embed").sum((1, 2))
    return first_order(runs, mean, kinds), Completeness(summed.mean().item(), (at_end - runs.base).mean().item())


def along_activations(runs: TwoRuns, metric: _Metric, kinds: Sequence[NodeKind], *, steps: int) -> dict[NodeKind, list[PerNode]]:
    """Return first-order estimates with each activation's gradient averaged along the straight line from the run's to the other's.

    One activation at a time goes along its line, with all its heads, neurons and positions, and everything after it is recomputed: the
    estimates of one layer's nodes sum to the effect of patching that activation whole, as steps grow.
    """

    def estimate(name: str) -> PerNode:
        start, end = runs.cache[name], runs.incoming(name)
        total = torch.zeros_like(start)
        for share in middles(steps):
            point = edits.replace(name, torch.lerp(start, end, share))
            total += gradients(runs.model, runs.tokens, metric, [name], edits=[point])[2][name] / steps
        return by_unit((end - start) * total, name)

    return {kind: [estimate(name) for name in names_of(runs.model.config, kind)] for kind in kinds}


def middles(steps: int) -> Iterable[float]:
    """Return the middles of equal parts of the way from 0 to 1."""
    return ((step + 0.5) / steps for step in range(steps))


def _turned(runs: TwoRuns, part: str, layer: int, *, is_incoming: bool = False) -> Float[Tensor, "batch head pos d_head"]:
    """Return the queries or the keys as attention compares them, a key head for every query head."""
    name = f"blocks.{layer}.attn.{part}"
    x = runs.incoming(name) if is_incoming else runs.cache[name]
    model = runs.model
    if model.rotary is not None:
        x = model.rotary.rotation(torch.arange(x.shape[1], device=x.device)).turn(x)
    return x.transpose(1, 2)


def _pattern(q: Tensor, k: Tensor, hidden: Tensor) -> Float[Tensor, "batch head q_pos k_pos"]:
    return _scores(q, k).masked_fill(hidden, -math.inf).softmax(-1)


def _scores(q: Tensor, k: Tensor) -> Float[Tensor, "batch head q_pos k_pos"]:
    return q @ k.mT / math.sqrt(q.shape[-1])


def _each_key(
    q: Tensor, k: Tensor, new_k: Tensor, hidden: Tensor, pattern: Tensor, grad: Tensor
) -> Float[Tensor, "batch head k_pos"]:
    """Return what each position's new key does to all the queries that see it."""
    scores, new_scores = _scores(q, k), _scores(q, new_k)
    effects = []
    for pos in range(k.shape[-2]):
        seen = slice(pos if bool(hidden[..., :pos, pos].all()) else 0, None)  # in a causal model not by queries before it
        changed = scores[..., seen, :].clone()
        changed[..., pos] = new_scores[..., seen, pos]
        moved = changed.masked_fill(hidden[..., seen, :], -math.inf).softmax(-1) - pattern[..., seen, :]
        effects.append((moved * grad[..., seen, :]).sum((-1, -2)))
    return torch.stack(effects, dim=-1)
