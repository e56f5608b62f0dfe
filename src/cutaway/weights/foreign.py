"""Tensors that other people's programs have saved, under their names and in their layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.weights.source import ModelSource, StoredTensor

__all__ = ["ForeignState", "Place", "place", "shapes", "read_checkpoint", "check_tensors"]

_ZIP = b"PK\x03\x04"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Place(NamedTuple):
    """Where one of their tensors goes."""

    axes: str
    """Its axes there, as einops writes them."""
    ours: tuple[str, ...]
    """Our parameter, or several that lie in it one after the other."""
    our_axes: str
    """Its axes here."""


def place(axes: str, *ours: str, our_axes: str = "") -> Place:
    """Return a place whose axes here are those there unless others are given."""
    return Place(axes, ours, our_axes or axes)


class ForeignState(ModelSource):
    """Tensors under other names and in other layouts; they are mapped, and read one by one when asked for."""

    _layers_in: ClassVar[str]

    def __init__(self, path: Path, config: ModelConfig, tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> None:
        self.path, self.config, self._tensors = path, config, dict(tensors)
        self._check_layers()
        places = _in_every_layer(places, self._layers_in, config.n_layers)
        for name in sorted(places.keys() & tensors.keys()):
            self._check_shape(name, places[name])
        parameters = shapes(config)
        self._moves = {name: place for name, place in places.items() if name in tensors and place.ours[0] in parameters}
        self._left_out = [name for name in tensors if name not in self._moves]
        moved = {ours for place in self._moves.values() for ours in place.ours}
        self._absent = [name for name in parameters if name not in moved]
        self._check_names({ours: name for name, place in reversed(places.items()) for ours in place.ours})

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor by its name in the file; their data are not read."""
        return {name: StoredTensor(str(x.dtype).removeprefix("torch."), tuple(x.shape)) for name, x in self._tensors.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors, each a copy that does not depend on the file any more."""
        for name, place in self._moves.items():
            tensor = rearrange(self._tensors[name].detach().clone(), f"{place.axes} -> {place.our_axes}")
            yield from zip(place.ours, tensor.chunk(len(place.ours)), strict=True)

    def _may_be_left_out(self, name: str) -> bool:
        """Whether our model does without this tensor of theirs."""
        raise NotImplementedError

    def _may_be_absent(self, ours: str) -> bool:  # noqa: ARG002
        """Whether their format does without this parameter of ours."""
        return False

    def _check_layers(self) -> None:
        matches = (re.match(rf"{re.escape(self._layers_in)}\.(\d+)\.", name) for name in self._tensors)
        n_layers = len({match[1] for match in matches if match})
        if n_layers != self.config.n_layers:
            raise ValueError(f"{self.path} holds {n_layers} layers; the configuration expects n_layers {self.config.n_layers}")

    def _check_names(self, their_names: Mapping[str, str]) -> None:
        if missing := [their_names.get(ours, ours) for ours in self._absent if not self._may_be_absent(ours)]:
            raise ValueError(f"{self.path} lacks {_first_of(missing)}, which the configuration asks for")
        if extra := [name for name in self._left_out if not self._may_be_left_out(name)]:
            raise ValueError(f"{self.path} holds {_first_of(extra)}, which the configuration does not know")

    def _check_shape(self, name: str, place: Place) -> None:
        tensor, sizes = self._tensors[name], _sizes(self.config)
        expected = [sizes[axis] for axis in place.axes.split()]
        if list(tensor.shape) != expected:
            raise ValueError(
                f"{self.path}: {name} has shape {list(tensor.shape)}; the configuration expects {expected} "
                f"({', '.join(place.axes.split())}), which becomes {', '.join(place.ours)} of {_shape_here(place, sizes)}"
            )
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{self.path}: {name} is of {tensor.dtype}; expected floating-point numbers of 16, 32 or 64 bits")


def _shape_here(place: Place, sizes: Mapping[str, int]) -> list[int]:
    """Return the shape that our parameters get, where axes in brackets become one."""
    groups = re.findall(r"\([^)]*\)|\S+", place.our_axes)
    first, *rest = (prod(sizes[axis] for axis in group.strip("()").split()) for group in groups)
    return [first // len(place.ours), *rest]


def _in_every_layer(places: Mapping[str, Place], layers_in: str, n_layers: int) -> dict[str, Place]:
    """Write out the places of "blocks.*.attn.W_Q" for every layer."""
    expanded = {name: place for name, place in places.items() if "*" not in name}
    for layer in range(n_layers):
        for name, place in places.items():
            if "*" in name:
                ours = tuple(ours.replace("*", str(layer)) for ours in place.ours)
                expanded[name.replace(f"{layers_in}.*", f"{layers_in}.{layer}")] = place._replace(ours=ours)
    return expanded


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Return the length of every axis that a table of places names."""
    return {
        "d_vocab": config.d_vocab,
        "d_vocab_out": config.d_vocab_out,
        "n_ctx": config.n_ctx,
        "d_model": config.d_model,
        "d_qkv": 3 * config.d_model,
        "d_heads": config.n_heads * config.d_head,
        "head": config.n_heads,
        "kv_head": config.n_kv_heads,
        "d_head": config.d_head,
        "d_mlp": config.d_mlp,
    }


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shape of every parameter of such a model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in Transformer(config).named_parameters()}


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Map a file of `torch.save` or a safetensors file: tensors are read when they are used, and nothing of it is ever run.

    Raises ValueError for another file, a damaged one, and one that holds other things than tensors and plain values.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    try:
        if not is_zip:
            with safe_open(path, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is neither a safetensors file ({error}) nor one that torch.save has written since torch 1.6; nothing of it was run"
        ) from None
    except Exception as error:  # what a damaged pickle raises is not foreseeable
        wants = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it asks for {wants[1]}" if wants else f"{type(error).__name__}, {' '.join(str(error).split()).partition('. ')[0]}"
        )
        raise ValueError(
            f"{path} is damaged or holds more than tensors and plain values ({reason}); nothing of it was run"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dictionary")  # noqa: TRY004
    return dict(content)


def check_tensors(path: Path, tensors: Mapping[Any, Any]) -> None:
    """Raise ValueError unless this is a state dictionary: names and plain tensors, nothing else."""
    for name, tensor in tensors.items():
        is_plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
        if not (is_plain and isinstance(name, str)):
            raise ValueError(f"{path}: {name!r} is no plain tensor; expected a state dictionary, which holds those alone")
