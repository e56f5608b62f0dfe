"""Activation names taken apart: layer, part, axes, and where in a forward pass each stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from cutaway.config import ModelConfig
from cutaway.hooks import canonical_name, nearest_names
from cutaway.model import Transformer

__all__ = [
    "Site",
    "Axes",
    "full_name",
    "row_shape",
    "hook_names",
    "hook_order",
    "site_of",
    "check_names",
    "check_layers",
    "norm_scales",
]

Axes = tuple[str, ...]

_RESID: Axes = ("batch", "pos", "d_model")
_HEADS: Axes = ("batch", "pos", "head", "d_head")
_KV_HEADS: Axes = ("batch", "pos", "kv_head", "d_head")
_ATTENTION: Axes = ("batch", "head", "q_pos", "k_pos")
_NEURONS: Axes = ("batch", "pos", "d_mlp")
_AXES: dict[str, Axes] = {
    "q": _HEADS, "rot_q": _HEADS, "z": _HEADS, "k": _KV_HEADS, "rot_k": _KV_HEADS, "v": _KV_HEADS,
    "attn_scores": _ATTENTION, "pattern": _ATTENTION, "result": ("batch", "pos", "head", "d_model"),
    "pre": _NEURONS, "pre_linear": _NEURONS, "post": _NEURONS,
    "scale": ("batch", "pos", "one"), "logits": ("batch", "pos", "d_vocab"),
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One activation of one layer."""

    name: str
    """Its full name, `blocks.3.attn.z`."""
    layer: int | None
    """Its block; None before the first and after the last."""
    part: str
    """Its name within the block, `attn.z`, or its whole name outside."""

    @property
    def axes(self) -> Axes:
        """The names of its axes."""
        return _AXES.get(self.part.rpartition(".")[2], _RESID)

    @property
    def is_attention(self) -> bool:
        """Whether it holds a number for every query and key."""
        return self.axes is _ATTENTION


@lru_cache(maxsize=4096)
def site_of(name: str) -> Site:
    """Return what a full name says."""
    scope, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    if scope == "blocks" and layer.isdecimal():
        return Site(name, int(layer), part)
    return Site(name, None, name)


@lru_cache(maxsize=32)
def hook_names(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of a model's activations in the order of the computation."""
    import torch

    with torch.device("meta"):
        return tuple(Transformer(config).hook_names())


@lru_cache(maxsize=32)
def hook_order(config: ModelConfig) -> dict[str, int]:
    """Return when in a forward pass each activation is computed."""
    return {name: i for i, name in enumerate(hook_names(config))}


def full_name(config: ModelConfig, part: str, layer: int) -> str:
    """Return the name of a part of a layer by its last words: `("pattern", 3)` is `blocks.3.attn.pattern`; -1 is the last layer.

    The whole name will do too. Raises ValueError for a layer that is not there, for the whole name of another layer's activation, and
    for a part that is no activation or stands for several.
    """
    if not -config.n_layers <= layer < config.n_layers:
        raise ValueError(f"there is no layer {layer}; the layers are 0 to {config.n_layers - 1}")
    scope = f"blocks.{layer % config.n_layers}."
    known = [name.removeprefix(scope) for name in hook_names(config) if name.startswith(scope)]
    part = canonical_name(part).removeprefix(scope)
    if (whole := site_of(part)).layer is not None and part in hook_order(config):
        raise ValueError(
            f"{part} is of layer {whole.layer}, and layer {layer % config.n_layers} is asked for: ask for layer {whole.layer}, or give "
            f"{whole.part!r}"
        )
    found = [part] if part in known else [name for name in known if name.endswith(f".{part}")]
    if len(found) != 1:
        raise ValueError(
            f"{part!r} stands for {' and '.join(found)}: give one of them"
            if found
            else f"no activation of a layer is called {part!r}{nearest_names([part], known)}"
        )
    return scope + found[0]


def row_shape(config: ModelConfig, name: str, n_pos: int) -> tuple[int, ...]:
    """Return the shape of one row of an activation."""
    sizes = {"pos": n_pos, "q_pos": n_pos, "k_pos": n_pos, "head": config.n_heads, "kv_head": config.n_kv_heads}
    sizes |= {"d_model": config.d_model, "d_head": config.d_head, "d_mlp": config.d_mlp, "d_vocab": config.d_vocab_out, "one": 1}
    return tuple(sizes[axis] for axis in site_of(name).axes[1:])


def check_names(config: ModelConfig, names: Iterable[str]) -> None:
    """Raise ValueError for a name that this model computes no activation of, with the nearest there are."""
    known = hook_names(config)
    unknown = sorted({canonical_name(name) for name in names} - set(known))
    if unknown:
        raise ValueError(
            f"this model computes no {' or '.join(map(repr, unknown))}{_why_absent(config, unknown)}{nearest_names(unknown, known)}"
        )


def check_layers(config: ModelConfig) -> None:
    """Raise ValueError for a model without layers, which has neither heads nor MLPs to look at."""
    if config.n_layers == 0:
        raise ValueError("this model has no layers, and so no heads and no MLPs: its embedding goes straight to its unembedding")


def norm_scales(config: ModelConfig, norms: str | Sequence[str]) -> tuple[str, ...]:
    """Return the scales of norms by name or glob; `blocks.3.ln1` and `blocks.3.ln1.scale` are the same.

    Raises ValueError for norms that the model does not have.
    """
    known = [name for name in hook_names(config) if name.endswith(".scale")]
    found: list[str] = []
    for given in [norms] if isinstance(norms, str) else norms:
        glob = canonical_name(given).removesuffix(".scale") + ".scale"
        matching = [name for name in known if fnmatchcase(name, glob)]
        if not matching:
            check_names(config, [glob])
        found += matching
    return tuple(dict.fromkeys(found))


def _why_absent(config: ModelConfig, names: list[str]) -> str:
    if any(name.endswith("resid_mid") for name in names):
        if config.block == "parallel":
            return " (attention and MLP are side by side in a parallel block)"
        if config.d_mlp == 0:
            return " (its blocks have no MLP)"
    return ""
