"""What can be taken out of a model: its units, and the activations that hold what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cutaway.config import ModelConfig
from cutaway.interp.attention import head_label
from cutaway.interp.sites import check_layers, hook_names

__all__ = ["What", "Unit", "units_of", "written_by", "chosen_layers"]

What = Literal["head", "attn", "mlp", "layer", "neuron", "position"]
"""What is ablated at a time: a head's `z`, what attention, an MLP or both of a layer write, a neuron, the stream at a position."""

_PARTS: dict[What, tuple[str, ...]] = {
    "head": ("attn.z",),
    "attn": ("attn_out",),
    "mlp": ("mlp_out",),
    "layer": ("attn_out", "mlp_out"),
    "neuron": ("mlp.post",),
    "position": ("resid_pre",),
}


@dataclass(frozen=True)
class Unit:
    """One thing that is ablated, or several heads at once under one name."""

    label: str
    layer: int | None = None
    index: int | None = None
    """Which head, neuron or position of the layer; None where a layer has one such unit."""


def written_by(config: ModelConfig, what: What, layer: int) -> list[str]:
    """Return the activations of a layer that hold what such units say."""
    return [name for part in _PARTS[what] if (name := f"blocks.{layer}.{part}") in hook_names(config)]


def units_of(config: ModelConfig, what: What, layers: Sequence[int], *, positions: Sequence[int]) -> list[Unit]:
    """Return the units of some layers in order; raises ValueError for what the model has none of."""
    if what not in get_args(What):
        raise ValueError(f"there is nothing called {what!r} to ablate; give one of {', '.join(get_args(What))}")
    if what in ("mlp", "neuron") and config.d_mlp == 0:
        raise ValueError(f"this model's blocks have no MLP, so there is no {what} to ablate; give head, attn, layer or position")
    if what in ("attn", "mlp", "layer"):
        return [Unit(f"L{layer}" if what == "layer" else f"L{layer} {what}", layer) for layer in layers]
    name = {"head": head_label, "neuron": _neuron_label, "position": _position_label}[what]
    indices = {"head": range(config.n_heads), "neuron": range(config.d_mlp), "position": positions}[what]
    return [Unit(name(layer, index), layer, index) for layer in layers for index in indices]


def chosen_layers(config: ModelConfig, layers: int | Sequence[int] | None) -> list[int]:
    """Return layers counted from 0, all for None; raises ValueError for one that is not there, and for a model without layers."""
    check_layers(config)
    given = range(config.n_layers) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    if wrong := [layer for layer in given if not -config.n_layers <= layer < config.n_layers]:
        raise ValueError(f"there is no layer {wrong[0]}; the layers are 0 to {config.n_layers - 1}")
    return [layer % config.n_layers for layer in given]


def _neuron_label(layer: int, neuron: int) -> str:
    return f"L{layer}N{neuron}"


def _position_label(layer: int, pos: int) -> str:
    return f"L{layer} pos {pos}"
