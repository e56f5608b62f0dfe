"""A model in a GGUF file, llama.cpp's format: quantised weights, the tokenizer and the chat template in one file."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from einops import rearrange
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.tokenizers import Tokenizer
from cutaway.values import shortened
from cutaway.weights.gguf_header import GGUFTensor, read_header
from cutaway.weights.source import ModelSource, StoredTensor, located, name_some, parameter_shapes

__all__ = ["GGUFFile"]

_CHUNK = 1 << 21  # weights dequantised at once

# What every model of an architecture has, in our words; whether there are biases is seen from the tensors.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"norm": "rmsnorm", "position": "rotary", "act": "silu", "gated_mlp": True},
    "gpt2": {"norm": "layernorm", "position": "learned", "act": "gelu_new"},
    "phi2": {"norm": "layernorm", "position": "rotary", "act": "gelu_new", "block": "parallel"},
}

# Source of the names: gguf-py, gguf/constants.py (Keys) and gguf/tensor_mapping.py.
_SIZES = {
    "context_length": "n_ctx",
    "embedding_length": "d_model",
    "block_count": "n_layers",
    "feed_forward_length": "d_mlp",
    "attention.head_count": "n_heads",
}
_SIZES_LEFT_OUT = {"attention.head_count_kv": "n_kv_heads", "attention.key_length": "d_head"}
_ROTARY_SIZE, _ROTARY_BASE = "rope.dimension_count", "rope.freq_base"
_NORM_EPS = {"rmsnorm": "attention.layer_norm_rms_epsilon", "layernorm": "attention.layer_norm_epsilon"}

# Settings that change what is computed, and the one value of each that does not.
_WITHOUT_EFFECT: dict[str, Any] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scale_linear": 1.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.finetuned": False,
    "rope.scaling.type": "none",
    "tensor_data_layout": "Meta AI original pth",
}

_MODULES = {
    "position_embd.weight": "embed.pos_embed.W_pos",
    "token_embd.weight": "embed.W_E",
    "output_norm": "unembed.ln_final",
    "output": "unembed.W_U",
}
_BLOCK_MODULES = {
    "attn_norm": "ln1",
    "attn_q": "attn.W_Q",
    "attn_k": "attn.W_K",
    "attn_v": "attn.W_V",
    "attn_output": "attn.W_O",
    "ffn_norm": "ln2",
    "ffn_up": "mlp.W_in",
    "ffn_gate": "mlp.W_gate",
    "ffn_down": "mlp.W_out",
}
_BLOCK = re.compile(r"blk\.(0|[1-9]\d*)\.(\w+)\.(weight|bias)")


class GGUFFile(ModelSource):
    """A GGUF file of llama.cpp's architectures llama, gpt2 or phi2, of any type of weights that the `gguf` package dequantises.

    Raises ValueError for a file that is damaged, and for one that asks for what cutaway's model does not compute.
    """

    kind: ClassVar[str] = "GGUF file"
    shapes: dict[str, torch.Size]
    """What `tensors` yields: each parameter's shape by cutaway's name."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fields, self._tensors = read_header(self.path)
        with located(self.path):
            _check_types(self._tensors)
            self._architecture = _architecture(self._fields)
            self.config = _read_config(self._architecture, self._fields, self._tensors)
            self.shapes = parameter_shapes(self.config)
            self._check_shapes()

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor of the file by its name there, from the header."""
        return {name: StoredTensor(tensor.type.name, tensor.shape) for name, tensor in self._tensors.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors in float32, dequantised one after the other as the file has them."""
        with self.path.open("rb") as file:
            for name, tensor in self._tensors.items():
                yield from self._ours(name, _dequantise(file, tensor)).items()

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer in the metadata, None where there is none; raises ValueError for one that is not supported."""
        if "tokenizer.ggml.tokens" not in self._fields:
            return None
        from cutaway.tokenizers.gguf_tokenizer import tokenizer_from_gguf_fields

        with located(self.path):
            return tokenizer_from_gguf_fields(self._fields)

    def chat_template(self) -> str | None:
        """Return the Jinja template in the metadata, None where there is none."""
        template = self._fields.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    def details(self) -> dict[str, str]:
        """Return the architecture, how many tensors have which type and, where the metadata says them, the name and the licence."""
        counts = Counter(tensor.type.name for tensor in self._tensors.values()).most_common()
        said = {"name": self._fields.get("general.name"), "licence": self._fields.get("general.license")}
        return {
            "architecture": self._architecture,
            "quantisation": ", ".join(f"{count} {kind}" for kind, count in counts),
            **{what: text for what, text in said.items() if isinstance(text, str)},
        }

    def _check_shapes(self) -> None:
        """Raise ValueError unless the tensors are those of the configuration, by the header's shapes."""
        expected = self.shapes
        for name, tensor in self._tensors.items():
            ours = _names(name, self._architecture)
            if unknown := [each for each in ours if each not in expected]:
                raise ValueError(f"it holds {name} ({', '.join(unknown)}), which its metadata does not know")
            wanted = [sum(expected[each][0] for each in ours), *expected[ours[0]][1:]]
            if list(tensor.shape) != wanted:
                raise ValueError(f"{name} has shape {list(tensor.shape)}; its metadata asks for {wanted}")
        held = [ours for name in self._tensors for ours in _names(name, self._architecture)]
        if missing := sorted(expected.keys() - set(held)):
            raise ValueError(f"it holds nothing for {name_some(missing)}, which its metadata asks for")
        if twice := [name for name, count in Counter(held).items() if count > 1]:
            raise ValueError(f"it holds {twice[0]} twice")

    def _ours(self, name: str, theirs: Tensor) -> dict[str, Tensor]:
        """Return our tensors of one of theirs."""
        ours = _names(name, self._architecture)
        if len(ours) == 1:
            parts: tuple[Tensor, ...] = (theirs,)
        else:
            d_q, d_kv = self.config.n_heads * self.config.d_head, self.config.n_kv_heads * self.config.d_head
            parts = tuple(part.clone() for part in theirs.split([d_q, d_kv, d_kv]))
        return {each: self._in_our_order(each, part) for each, part in zip(ours, parts, strict=True)}

    def _in_our_order(self, name: str, tensor: Tensor) -> Tensor:
        """Sort the rows of Llama's W_Q and W_K: llama.cpp turns neighbours, so its files hold each pair of coordinates together."""
        n_heads = {"W_Q": self.config.n_heads, "W_K": self.config.n_kv_heads}.get(name.split(".")[-2])
        if self._architecture != "llama" or n_heads is None:
            return tensor
        return rearrange(tensor, "(head pair two) ... -> (head two pair) ...", head=n_heads, two=2).contiguous()


def _check_types(tensors: Mapping[str, GGUFTensor]) -> None:
    """Raise ValueError for a type that the library does not dequantise."""
    for kind in {tensor.type for tensor in tensors.values()}:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)  # a block of nothing
        except NotImplementedError:
            name = next(name for name, tensor in tensors.items() if tensor.type == kind)
            raise ValueError(f"{name} is of type {kind.name}, which the gguf package does not dequantise") from None


def _architecture(fields: Mapping[str, Any]) -> str:
    found = fields.get("general.architecture")
    if not isinstance(found, str) or found not in _ARCHITECTURES:
        raise ValueError(f"its architecture is {shortened(found)}; supported are {', '.join(_ARCHITECTURES)}")
    return found


def _read_config(architecture: str, fields: Mapping[str, Any], tensors: Mapping[str, GGUFTensor]) -> ModelConfig:
    """Translate the metadata; raises ValueError naming what is missing, wrong or not supported."""
    choices = _ARCHITECTURES[architecture]
    given = {key.removeprefix(f"{architecture}."): value for key, value in fields.items() if key.startswith(f"{architecture}.")}
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError("it holds no token_embd.weight of two dimensions, so it is no language model")
    sizes = {ours: _read_size(given, key, architecture) for key, ours in _SIZES.items()}
    sizes |= {ours: _read_size(given, key, architecture) for key, ours in _SIZES_LEFT_OUT.items() if key in given}
    sizes["d_vocab"] = embedding.shape[0]
    numbers = {"norm_eps": _read_number(given, _NORM_EPS[choices["norm"]], architecture)}
    understood = {*_SIZES, *_SIZES_LEFT_OUT, *_NORM_EPS.values(), *_WITHOUT_EFFECT, "vocab_size", "attention.value_length"}
    if choices["position"] == "rotary":
        understood |= {_ROTARY_SIZE, _ROTARY_BASE}
        sizes |= {"rotary_dim": _read_size(given, _ROTARY_SIZE, architecture)} if _ROTARY_SIZE in given else {}
        numbers |= {"rotary_base": _read_number(given, _ROTARY_BASE, architecture)} if _ROTARY_BASE in given else {}
    if unknown := sorted(given.keys() - understood):
        key = shortened(f"{architecture}.{unknown[0]}")
        raise ValueError(f"{key} is {shortened(given[unknown[0]])}, a setting that cutaway's {architecture} does not have")
    _check_sizes(sizes, tensors, choices)
    biases = {
        "norm_bias": "output_norm.bias" in tensors,
        "attn_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "unembed_bias": "output.bias" in tensors,
    }
    config = ModelConfig.from_dict({**sizes, **numbers, **choices, **biases, "tie_embeddings": "output.weight" not in tensors})
    only = {**_WITHOUT_EFFECT, "vocab_size": config.d_vocab, "attention.value_length": config.d_head}
    if architecture == "llama":
        only[_ROTARY_SIZE] = config.d_head  # the order of its rows says nothing of which coordinates would stay
    for key, value in only.items():
        if given.get(key, value) != value:
            raise ValueError(f"{architecture}.{key} is {shortened(given[key])}; supported is {value!r}")
    return config


def _read_size(given: Mapping[str, Any], key: str, architecture: str) -> int:
    value = given.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{architecture}.{key} is {shortened(value)}; expected one whole number of at least 1")
    return value


def _read_number(given: Mapping[str, Any], key: str, architecture: str) -> float:
    value = given.get(key)
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise ValueError(f"{architecture}.{key} is {shortened(value)}; expected one positive number")
    return float(str(np.float32(value)))  # the decimal number that became a float32


def _check_sizes(sizes: Mapping[str, int], tensors: Mapping[str, GGUFTensor], choices: Mapping[str, Any]) -> None:
    """Raise ValueError for sizes that no tensor has: even a model of mere shapes is not built of those."""
    n_layers = len({match[1] for name in tensors if (match := _BLOCK.fullmatch(name))})
    if sizes["n_layers"] != n_layers:
        raise ValueError(f"its metadata says {sizes['n_layers']} layers and its tensors are of {n_layers}")
    widest = max(max(tensor.shape) for tensor in tensors.values())
    for name, size in sizes.items():
        if size > widest and (name != "n_ctx" or choices["position"] == "learned"):
            raise ValueError(f"its metadata says {name} {size}, and no tensor has more than {widest} in one dimension")


def _names(theirs: str, architecture: str) -> tuple[str, ...]:
    """Return which of our parameters lie in a tensor of theirs, one after the other."""
    if theirs in _MODULES:
        return (_MODULES[theirs],)
    module, _, kind = theirs.rpartition(".")
    if module in _MODULES and kind in ("weight", "bias"):
        return (f"{_MODULES[module]}.{kind}",)
    if match := _BLOCK.fullmatch(theirs):
        layer, module, kind = match.groups()
        if module == "attn_qkv":
            return tuple(f"blocks.{layer}.attn.{part}.{kind}" for part in ("W_Q", "W_K", "W_V"))
        if module in _BLOCK_MODULES:
            return (f"blocks.{layer}.{_BLOCK_MODULES[module]}.{kind}",)
    raise ValueError(f"it holds {shortened(theirs)}, a tensor that cutaway's {architecture} does not have")


def _dequantise(file: BinaryIO, tensor: GGUFTensor) -> Tensor:
    """Read a tensor in float32, some rows at a time; raises ValueError where the file has become shorter."""
    n_rows, width = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    n_bytes = tensor.n_bytes // n_rows  # of a row
    step = max(1, _CHUNK // width)
    values = torch.empty(n_rows, width)
    file.seek(tensor.offset)
    for first in range(0, n_rows, step):
        rows = values[first : first + step]
        content = file.read(len(rows) * n_bytes)
        if len(content) < len(rows) * n_bytes:
            raise ValueError(f"{file.name} was cut short while it was read")
        quantised = np.frombuffer(content, np.uint8).reshape(len(rows), n_bytes)
        np.copyto(rows.numpy(), dequantize(quantised, tensor.type))
    return values.view(tensor.shape)
