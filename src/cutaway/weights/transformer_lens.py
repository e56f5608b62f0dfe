"""State dictionaries of TransformerLens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Rotary, Transformer
from cutaway.weights.foreign import check_floats, check_state_dictionary, describe_tensors, read_checkpoint
from cutaway.weights.source import ModelSource, StoredTensor, name_some, parameter_shapes

__all__ = ["TransformerLensState", "is_transformer_lens", "transformer_lens_tensors"]


class _Place(NamedTuple):
    """Where one of their tensors goes: its axes there and here as einops writes them, and our name for it."""

    axes: str
    ours: str
    our_axes: str


def _place(axes: str, ours: str, *, our_axes: str = "") -> _Place:
    """Return a place whose axes here are those there unless others are given."""
    return _Place(axes, ours, our_axes or axes)


_PLACES: dict[str, _Place] = {
    "embed.W_E": _place("d_vocab d_model", "embed.W_E"),
    "pos_embed.W_pos": _place("n_ctx d_model", "embed.pos_embed.W_pos"),
    "blocks.*.ln1.w": _place("d_model", "blocks.*.ln1.weight"),
    "blocks.*.ln1.b": _place("d_model", "blocks.*.ln1.bias"),
    "blocks.*.attn.W_Q": _place("head d_model d_head", "blocks.*.attn.W_Q.weight", our_axes="(head d_head) d_model"),
    "blocks.*.attn.b_Q": _place("head d_head", "blocks.*.attn.W_Q.bias", our_axes="(head d_head)"),
    "blocks.*.attn.W_K": _place("kv_head d_model d_head", "blocks.*.attn.W_K.weight", our_axes="(kv_head d_head) d_model"),
    "blocks.*.attn.b_K": _place("kv_head d_head", "blocks.*.attn.W_K.bias", our_axes="(kv_head d_head)"),
    "blocks.*.attn.W_V": _place("kv_head d_model d_head", "blocks.*.attn.W_V.weight", our_axes="(kv_head d_head) d_model"),
    "blocks.*.attn.b_V": _place("kv_head d_head", "blocks.*.attn.W_V.bias", our_axes="(kv_head d_head)"),
    "blocks.*.attn.W_O": _place("head d_head d_model", "blocks.*.attn.W_O.weight", our_axes="d_model (head d_head)"),
    "blocks.*.attn.b_O": _place("d_model", "blocks.*.attn.W_O.bias"),
    "blocks.*.ln2.w": _place("d_model", "blocks.*.ln2.weight"),
    "blocks.*.ln2.b": _place("d_model", "blocks.*.ln2.bias"),
    "blocks.*.mlp.W_gate": _place("d_model d_mlp", "blocks.*.mlp.W_gate.weight", our_axes="d_mlp d_model"),
    "blocks.*.mlp.W_in": _place("d_model d_mlp", "blocks.*.mlp.W_in.weight", our_axes="d_mlp d_model"),
    "blocks.*.mlp.b_in": _place("d_mlp", "blocks.*.mlp.W_in.bias"),
    "blocks.*.mlp.W_out": _place("d_mlp d_model", "blocks.*.mlp.W_out.weight", our_axes="d_model d_mlp"),
    "blocks.*.mlp.b_out": _place("d_model", "blocks.*.mlp.W_out.bias"),
    "ln_final.w": _place("d_model", "unembed.ln_final.weight"),
    "ln_final.b": _place("d_model", "unembed.ln_final.bias"),
    "unembed.W_U": _place("d_model d_vocab_out", "unembed.W_U.weight", our_axes="d_vocab_out d_model"),
    "unembed.b_U": _place("d_vocab_out", "unembed.W_U.bias"),
}

# TransformerLens has every bias in every model. One that is zero may be left out; for another the configuration needs this.
_REMEDIES = {
    r"attn\._?b_[QKVO]": "set attn_bias=True",
    r"mlp\.b_(in|out)": "set mlp_bias=True",
    r"ln\w+\.b": "set norm_bias=True",
    r"unembed\.b_U": "set unembed_bias=True",
    r"pos_embed\.W_pos": 'set position="learned" or "attention_only"',
}

_GROUPED = "blocks.0.attn._W_K"  # so are the keys of grouped heads called, and their values

_BUFFERS = r"attn\.(mask|IGNORE|rotary_sin|rotary_cos)"


class TransformerLensState(ModelSource):
    """A state dictionary of TransformerLens 2 in a `.pt` or `.safetensors` file, with the shape of its model, which it does not hold.

    Norms whose weights were folded into the layers after them have weight 1 and bias 0. What the shape has no place for must be zero:
    nothing is dropped that would change the logits. Raises ValueError for what does not fit, naming the tensor. Source:
    TransformerLensOrg/TransformerLens 2.18, `components/`.
    """

    kind: ClassVar[str] = "TransformerLens state"

    def __init__(self, path: str | Path, config: ModelConfig) -> None:
        self.path, self.config = Path(path), config
        self._tensors = read_checkpoint(self.path)
        check_state_dictionary(self.path, self._tensors)
        self._is_folded = not any(re.search(r"\bln\w+\.[wb]$", name) for name in self._tensors)
        self._check_layers()
        places = _places(config, self._tensors)
        for name in sorted(places.keys() & self._tensors.keys()):
            self._check_shape(name, places[name])
        parameters = parameter_shapes(config)
        self._moves = {name: place for name, place in places.items() if name in self._tensors and place.ours in parameters}
        self._left_out = [name for name in self._tensors if name not in self._moves]
        moved = {place.ours for place in self._moves.values()}
        self._absent = [name for name in parameters if name not in moved]
        self._check_names({place.ours: name for name, place in reversed(places.items())})

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor by its name in the file; their data are not read."""
        return describe_tensors(self._tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors, each a copy that does not depend on the file any more.

        Raises ValueError for a tensor that the configuration leaves out although it does something.
        """
        for name in self._left_out:
            self._check_left_out(name)
        for name, place in self._moves.items():
            yield place.ours, rearrange(self._tensors[name].detach().clone(), f"{place.axes} -> {place.our_axes}")
        expected, dtype = parameter_shapes(self.config), self._tensors["embed.W_E"].dtype
        for ours in self._absent:
            yield ours, torch.full(expected[ours], 1.0 if ours.endswith("weight") else 0.0, dtype=dtype)

    def _check_layers(self) -> None:
        matches = (re.match(r"blocks\.(\d+)\.", name) for name in self._tensors)
        n_layers = len({match[1] for match in matches if match})
        if n_layers != self.config.n_layers:
            raise ValueError(f"{self.path} holds {n_layers} layers; the configuration expects n_layers {self.config.n_layers}")

    def _check_shape(self, name: str, place: _Place) -> None:
        tensor, sizes = self._tensors[name], _sizes(self.config)
        expected = [sizes[axis] for axis in place.axes.split()]
        if list(tensor.shape) != expected:
            raise ValueError(
                f"{self.path}: {name} has shape {list(tensor.shape)}; the configuration expects {expected} "
                f"({', '.join(place.axes.split())}), which becomes {place.ours} of {_shape_here(place, sizes)}"
            )
        check_floats(self.path, name, tensor)

    def _check_names(self, their_names: Mapping[str, str]) -> None:
        if missing := [their_names.get(ours, ours) for ours in self._absent if not self._may_be_absent(ours)]:
            raise ValueError(f"{self.path} lacks {name_some(missing)}, which the configuration asks for")
        if extra := [name for name in self._left_out if not self._may_be_left_out(name)]:
            raise ValueError(f"{self.path} holds {name_some(extra)}, which the configuration does not know")

    def _may_be_left_out(self, name: str) -> bool:
        is_twin = (name == "unembed.W_U" and self.config.tie_embeddings) or self._is_second_norm(name)
        return is_twin or any(re.search(rf"\b{kind}$", name) for kind in (*_REMEDIES, _BUFFERS))

    def _may_be_absent(self, ours: str) -> bool:
        is_folded_norm = self._is_folded and re.search(r"\bln\w+\.", ours) is not None
        has_no_place_there = self.config.gated_mlp and re.search(r"mlp\.W_(in|gate)\.bias$", ours) is not None
        return is_folded_norm or has_no_place_there

    def _is_second_norm(self, name: str) -> bool:
        return self.config.block == "parallel" and ".ln2." in name

    def _check_left_out(self, name: str) -> None:
        tensor = self._tensors[name]
        if self._is_second_norm(name):
            if not _are_equal(tensor, self._tensors.get(name.replace("ln2", "ln1"))):
                raise ValueError(f"{self.path}: {name} is not ln1's, and a parallel block of cutaway's has one norm")
        elif name == "unembed.W_U":
            if not _are_equal(tensor.mT, self._tensors["embed.W_E"]):
                raise ValueError(f"{self.path}: {name} is not the transpose of embed.W_E: set tie_embeddings=False")
        elif name.endswith("attn.mask"):
            if tensor.ndim != 2 or not torch.equal(tensor, torch.ones_like(tensor).tril()):
                raise ValueError(f"{self.path}: {name} is no causal mask; local attention is not supported")
        elif "attn.rotary_" in name:
            self._check_rotary(name, tensor)
        elif not name.endswith("IGNORE") and tensor.any():
            raise ValueError(f"{self.path}: {name} is not zero, and the configuration leaves it out: {self._remedy(name)}")

    def _check_rotary(self, name: str, table: Tensor) -> None:
        """Compare their table of angles with ours: a wrong base, or pairs of neighbours, would load as well."""
        config = self.config
        if config.position != "rotary":
            raise ValueError(f'{self.path} holds {name}, which the configuration does not know: set position="rotary"')
        table = torch.atleast_2d(table)[: config.n_ctx].float()
        positions = torch.arange(len(table))
        rotation = Rotary(config.d_head, rotary_dim=config.rotary_dim, base=config.rotary_base).rotation(positions)
        half = rotation.sin if name.endswith("sin") else rotation.cos
        ours = torch.cat([half, half], dim=-1)
        if ours.shape != table.shape or not torch.allclose(ours, table, rtol=0, atol=0.01):  # bfloat16 rounds to 0.004
            raise ValueError(
                f"{self.path}: {name} does not hold the angles of rotary_dim {config.rotary_dim} and rotary_base "
                f"{config.rotary_base:g} with pairs (i, i + rotary_dim / 2); change these (pairs of neighbours are not supported)"
            )

    def _remedy(self, name: str) -> str:
        if self.config.gated_mlp and name.endswith("mlp.b_in"):
            return "it is added after the gate there, where cutaway's gated layers have no bias"
        return next(remedy for kind, remedy in _REMEDIES.items() if re.search(rf"\b{kind}$", name))


def _places(config: ModelConfig, names: Collection[str]) -> dict[str, _Place]:
    places = dict(_PLACES)
    if config.position == "attention_only":
        places["pos_embed.W_pos"] = _place("n_ctx d_model", "qk_positions.W_pos")
    if config.gated_mlp:
        del places["blocks.*.mlp.b_in"]  # stands after the gate
    if _GROUPED in names:
        for part in ("W_K", "b_K", "W_V", "b_V"):
            places[f"blocks.*.attn._{part}"] = places.pop(f"blocks.*.attn.{part}")
    return _in_every_layer(places, config.n_layers)


def _in_every_layer(places: Mapping[str, _Place], n_layers: int) -> dict[str, _Place]:
    """Write out the places of "blocks.*.attn.W_Q" for every layer."""
    expanded = {name: place for name, place in places.items() if "*" not in name}
    for layer in map(str, range(n_layers)):
        for name, place in places.items():
            if "*" in name:
                expanded[name.replace("*", layer)] = place._replace(ours=place.ours.replace("*", layer))
    return expanded


def _shape_here(place: _Place, sizes: Mapping[str, int]) -> list[int]:
    """Return the shape that our parameter gets, where axes in brackets become one."""
    groups = re.findall(r"\([^)]*\)|\S+", place.our_axes)
    return [prod(sizes[axis] for axis in group.strip("()").split()) for group in groups]


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Return the length of every axis that the table of places names."""
    return {
        "d_vocab": config.d_vocab,
        "d_vocab_out": config.d_vocab_out,
        "n_ctx": config.n_ctx,
        "d_model": config.d_model,
        "head": config.n_heads,
        "kv_head": config.n_kv_heads,
        "d_head": config.d_head,
        "d_mlp": config.d_mlp,
    }


def is_transformer_lens(names: Iterable[object]) -> bool:
    """Whether these are names of TransformerLens."""
    return {"embed.W_E", "unembed.W_U"} <= set(names)


def transformer_lens_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return a model's weights by TransformerLens's names, each in memory of its own; biases that the model lacks are left out."""
    sizes, ours = _sizes(model.config), model.state_dict()  # where a tied unembedding is there too
    is_grouped = model.config.n_kv_heads < model.config.n_heads
    moved = {}
    for name, place in _places(model.config, {_GROUPED} if is_grouped else ()).items():
        if place.ours in ours:
            heads = {axis: sizes[axis] for axis in ("head", "kv_head") if axis in place.axes.split()}
            theirs = rearrange(ours[place.ours], f"{place.our_axes} -> {place.axes}", **heads)
            moved[name] = theirs.clone(memory_format=torch.contiguous_format)
    return moved


def _are_equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)
