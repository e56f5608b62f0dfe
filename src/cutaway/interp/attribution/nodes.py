"""What patches are estimated for: activations by layer, head or neuron, and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import edits
from cutaway.interp.attention import head_label
from cutaway.interp.edits import Edit
from cutaway.interp.sites import check_names, full_name, site_of

__all__ = ["NodeKind", "HEAD_KINDS", "ActivationNode", "PerNode", "checked_kinds", "names_of", "by_unit", "replaced_by"]

NodeKind = Literal[
    "embed", "z", "q", "k", "v", "pattern", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post", "neuron"
]  # fmt: skip
"""An activation: of the embedding, of each head, of each layer, or of each neuron (after the activation function)."""

HEAD_KINDS: tuple[NodeKind, ...] = ("z", "q", "k", "v", "pattern")
"""What heads compute."""

PerNode = Float[Tensor, "batch unit pos"]
"""One number for each head or neuron (one unit for parts of the stream) and each position, the query's for patterns."""


@dataclass(frozen=True)
class ActivationNode:
    """One activation at one position, or at all of them together."""

    kind: NodeKind
    layer: int
    """0 for the embedding."""
    unit: int | None = None
    """The head or the neuron, if it is one's."""
    pos: int | None = None
    """None for all positions at once."""

    def __str__(self) -> str:
        match self.kind:
            case "embed":
                name = "embed"
            case "neuron":
                name = f"mlp{self.layer}.{self.unit}"
            case _ if self.unit is not None:
                name = f"{head_label(self.layer, self.unit)}.{self.kind}"
            case _:
                name = f"{self.kind} {self.layer}"
        return name if self.pos is None else f"{name} at {self.pos}"


def checked_kinds(config: ModelConfig, kinds: Sequence[NodeKind] | None) -> tuple[NodeKind, ...]:
    """Return the kinds, without any those of heads, and MLPs where there are some.

    Raises ValueError for a kind there is not, and for one that this model does not have.
    """
    if kinds is None:
        return HEAD_KINDS if config.d_mlp == 0 else (*HEAD_KINDS, "mlp_out")
    if unknown := [kind for kind in kinds if kind not in get_args(NodeKind)]:
        raise ValueError(f"there are no nodes of kind {unknown[0]!r}; expected some of {', '.join(get_args(NodeKind))}")
    if not kinds:
        raise ValueError(f"there is nothing to patch: name at least one of {', '.join(get_args(NodeKind))}")
    for kind in kinds:
        if kind == "neuron" and config.d_mlp == 0:
            raise ValueError("there are no nodes of kind 'neuron': this model has no MLPs")
        check_names(config, names_of(config, kind))
    return tuple(dict.fromkeys(kinds))


def names_of(config: ModelConfig, kind: NodeKind) -> list[str]:
    """Return the activation of each layer that holds the nodes of a kind."""
    if kind == "embed":
        return ["embed"]
    part = "mlp.post" if kind == "neuron" else kind
    return [full_name(config, part, layer) for layer in range(config.n_layers)]


def by_unit(x: Float[Tensor, "batch ..."], name: str) -> PerNode:
    """Return the sums of an activation's coordinates: of a head's, a query's keys, or the stream's; neurons stay apart."""
    axes = site_of(name).axes
    if axes[-1] == "d_mlp":
        return x.mT  # batch pos unit -> batch unit pos
    if site_of(name).is_attention:
        return x.sum(-1)  # batch head q_pos k_pos -> batch unit pos
    if axes[2] in ("head", "kv_head"):
        return x.sum(-1).mT  # batch pos head d_head -> batch unit pos
    return x.sum(-1)[:, None]  # batch pos d_model -> batch unit pos


def replaced_by(node: ActivationNode, name: str, incoming: Float[Tensor, "batch ..."]) -> Edit:
    """Return the edit that puts a node's part of an activation in the place of the run's."""
    axes = site_of(name).axes
    if site_of(name).is_attention:
        value = incoming[:, node.unit] if node.pos is None else incoming[:, node.unit, node.pos]
        return edits.replace(name, value.clone(), head=node.unit, pos=node.pos)
    value = incoming if node.pos is None else incoming[:, node.pos]
    if axes[-1] == "d_mlp":
        return edits.replace(name, value[..., node.unit].clone(), index=node.unit, pos=node.pos)
    if axes[2] in ("head", "kv_head"):
        return edits.replace(name, value[..., node.unit, :].clone(), head=node.unit, pos=node.pos)
    return edits.replace(name, value.clone(), pos=node.pos)
