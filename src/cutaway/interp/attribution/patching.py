"""Attribution patching: the effect of every patch estimated at once, and the best of them tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.attribution.estimates import Completeness, along_activations, along_inputs, first_order, through_softmax
from cutaway.interp.attribution.nodes import HEAD_KINDS, ActivationNode, NodeKind, PerNode, checked_kinds, names_of, replaced_by
from cutaway.interp.attribution.result import AttributionPatching
from cutaway.interp.edits import Edit
from cutaway.interp.patching.grid import Pairs
from cutaway.interp.refactoring import ungroup_heads
from cutaway.interp.running import gradients
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.interp.two_runs import TwoRuns, run_two, scored
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Along", "attribute_patches"]

Along = Literal["inputs", "activations"]
"""The line of integrated gradients: between the embeddings of the two runs, or between the two values of each activation in turn."""


def attribute_patches(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    *,
    kinds: Sequence[NodeKind] | None = None,
    by_position: bool = False,
    qk_fix: bool = True,
    along: Along | None = None,
    steps: int = 16,
    exact_top: int | None = None,
    exact_all: bool = False,
    threshold: float = 0.05,
    pairs: Sequence[Pairs] | None = None,
    lengths: Sequence[int] | None = None,
    other_lengths: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttributionPatching:
    """Estimate what the metric gains when each activation of the run, one at a time, is that of the other run.

    To first order that is the activation's change times the metric's gradient, which one forward and one backward pass give for all
    nodes; with `by_position` each position is a node, otherwise all of them together. Without `kinds`, what heads compute and
    `mlp_out` are the nodes. Queries and keys go through the softmax
    (`qk_fix`), which to first order hardly answers where attention is saturated. `along` averages the gradient over `steps` points of a
    line instead (integrated gradients; then queries and keys are taken like all others). Keys and values are those of one query head
    also where heads share them.

    `exact_top` tries the best so many nodes of each kind for themselves, all in one sweep, and `exact_all` every node; the result
    says how the ranks of their sizes agree, and which nodes move the metric by `threshold` of the difference between the runs or more
    by one account and not by the other, or one way by the one and the other way by the other. `pairs` say for each row which
    positions of the other run go to which of this; `lengths` are each row's tokens where rows are filled up on the right. Raises
    ValueError for kinds that the model does not have, and for runs of different length without pairs. Source: Nanda 2023,
    "Attribution Patching"; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"; Kramár et al. 2024,
    "AtP*", section 3.1.1; Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks".

    >>> import cutaway
    >>> from cutaway import attribution, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = lm.tokens("When Mary and John went to the store , John gave a drink to")
    >>> corrupted = lm.tokens("When Mary and John went to the store , Mary gave a drink to")
    >>> answer = metrics.logit_diff(lm.tokens(" Mary")[0], lm.tokens(" John")[0])
    >>> found = attribution.attribute_patches(lm.model, clean, corrupted, answer, exact_top=10)
    >>> str(found.ranked("z")[0].node), found.agreement()[0].n_tried
    ('L1H1.z', 10)
    """
    config, kinds = model.config, checked_kinds(model.config, kinds)
    _check(along, steps, exact_top)
    if config.n_kv_heads < config.n_heads and {"k", "v"} & set(kinds):
        model = ungroup_heads(model)
    fixed = [kind for kind in kinds if kind in ("q", "k")] if qk_fix and along is None else []

    def measured(logits: Tensor) -> Tensor:
        return scored(metric, logits, lengths)

    other_names = {name for kind in kinds for name in names_of(config, kind)} | ({"embed"} if along == "inputs" else set())
    names = other_names | (_made_of_scores(config) if fixed else set())
    model = without_dropout(model)
    runs = run_two(
        model, tokens, other_tokens, metric, names,
        other_names=other_names, pairs=pairs, lengths=lengths, other_lengths=other_lengths,
    )  # fmt: skip
    estimates, completeness = _estimated(runs, measured, kinds, fixed, along=along, steps=steps, by_position=by_position)
    tried = _to_try(runs, estimates, by_position, top=exact_top, is_all=exact_all)
    base, exact = _tried(runs, tried, metric, progress=progress)
    return AttributionPatching(
        estimates=estimates,
        exact=exact,
        base=base,
        other=runs.other,
        by_position=by_position,
        fixed=tuple(fixed),
        along=along,
        steps=None if along is None else steps,
        completeness=completeness,
        threshold=threshold,
        places=_places(runs) if by_position else (),
    )


def _check(along: str | None, steps: int, exact_top: int | None) -> None:
    if steps < 1 or along not in (None, "inputs", "activations"):
        raise ValueError(f"along is {along!r} and steps {steps}; expected inputs, activations or None, and 1 step at least")
    if exact_top is not None and exact_top < 1:
        raise ValueError(f"{exact_top} nodes are to be tried; expected 1 at least, or none given")


def _made_of_scores(config: ModelConfig) -> set[str]:
    """Return what patterns are computed anew from, and they themselves."""
    return {f"blocks.{layer}.attn.{part}" for layer in range(config.n_layers) for part in ("q", "k", "attn_scores", "pattern")}


def _estimated(
    runs: TwoRuns,
    measured: Callable[[Tensor], Tensor],
    kinds: Sequence[NodeKind],
    fixed: Sequence[NodeKind],
    *,
    along: Along | None,
    steps: int,
    by_position: bool,
) -> tuple[dict[NodeKind, Tensor], Completeness | None]:
    """Return every kind's estimates, those of `fixed` kinds through the softmax, and the embedding's sum on the inputs' line."""
    completeness = None
    if along == "inputs":
        layers, completeness = along_inputs(runs, measured, kinds, steps=steps)
    elif along == "activations":
        layers = along_activations(runs, measured, kinds, steps=steps)
    else:
        read: set[NodeKind] = {"pattern" if kind in fixed else kind for kind in kinds}
        names = sorted({name for kind in read for name in names_of(runs.model.config, kind)})
        _, _, grads = gradients(runs.model, runs.tokens, measured, names)
        layers = first_order(runs, grads, [kind for kind in kinds if kind not in fixed])
        layers |= {kind: through_softmax(runs, grads, kind, by_position=by_position) for kind in fixed}
    return {kind: _stacked(layers[kind], by_position) for kind in kinds}, completeness


def _stacked(layers: Sequence[PerNode], by_position: bool) -> Float[Tensor, "layer unit place batch"]:
    """Return the estimates of all layers, with the rows last; without positions their sum in one place."""
    stacked = torch.stack(list(layers)).movedim(1, -1)
    return stacked if by_position else stacked.sum(2, keepdim=True)


def _places(runs: TwoRuns) -> tuple[int, ...]:
    """Return the positions that have a partner in any row."""
    return tuple(sorted({here for row in runs.pairs for _, here in row}))


def _to_try(
    runs: TwoRuns, estimates: Mapping[NodeKind, Tensor], by_position: bool, *, top: int | None, is_all: bool
) -> list[ActivationNode]:
    """Return the nodes to be tried exactly: all, or the best of each kind."""
    if top is None and not is_all:
        return []
    nodes: list[ActivationNode] = []
    for kind, values in estimates.items():
        size = values.mean(-1).abs()
        if by_position:
            away = sorted(set(range(size.shape[-1])) - set(_places(runs)))
            size[..., away] = -1.0
        order = size.flatten().argsort(descending=True, stable=True)
        order = order[: int((size >= 0).sum()) if is_all else min(top or 0, int((size >= 0).sum()))]
        for layer, unit, pos in torch.stack(torch.unravel_index(order, size.shape), dim=-1).tolist():
            nodes.append(
                ActivationNode(kind, layer, unit if kind in (*HEAD_KINDS, "neuron") else None, pos if by_position else None)
            )
    return nodes


def _tried(
    runs: TwoRuns,
    nodes: Sequence[ActivationNode],
    metric: AnyMetric,
    *,
    progress: Callable[[int, int], None] | None,
) -> tuple[Float[Tensor, " batch"], dict[ActivationNode, Float[Tensor, " batch"]]]:
    """Return the metric of the run, and the change of it when each node is patched."""
    if not nodes:
        return runs.base, {}
    incoming: dict[str, Tensor] = {}

    def edit(node: ActivationNode) -> Edit:
        name = names_of(runs.model.config, node.kind)[node.layer]
        if name not in incoming:
            incoming[name] = runs.incoming(name)
        return replaced_by(node, name, incoming[name])

    variants = [*([edit(node)] for node in nodes), []]
    scores = sweep(runs.model, runs.tokens, variants, metric, lengths=runs.lengths, progress=progress)
    return scores[-1], dict(zip(nodes, scores[:-1] - scores[-1], strict=True))
