"""State dictionaries of TransformerLens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Rotary
from cutaway.weights.foreign import ForeignState, Place, check_tensors, place, read_checkpoint, shapes

__all__ = ["TransformerLensState", "is_transformer_lens"]

_PLACES: dict[str, Place] = {
    "embed.W_E": place("d_vocab d_model", "embed.W_E"),
    "pos_embed.W_pos": place("n_ctx d_model", "embed.pos_embed.W_pos"),
    "blocks.*.ln1.w": place("d_model", "blocks.*.ln1.weight"),
    "blocks.*.ln1.b": place("d_model", "blocks.*.ln1.bias"),
    "blocks.*.attn.W_Q": place("head d_model d_head", "blocks.*.attn.W_Q.weight", our_axes="(head d_head) d_model"),
    "blocks.*.attn.b_Q": place("head d_head", "blocks.*.attn.W_Q.bias", our_axes="(head d_head)"),
    "blocks.*.attn.W_K": place("kv_head d_model d_head", "blocks.*.attn.W_K.weight", our_axes="(kv_head d_head) d_model"),
    "blocks.*.attn.b_K": place("kv_head d_head", "blocks.*.attn.W_K.bias", our_axes="(kv_head d_head)"),
    "blocks.*.attn.W_V": place("kv_head d_model d_head", "blocks.*.attn.W_V.weight", our_axes="(kv_head d_head) d_model"),
    "blocks.*.attn.b_V": place("kv_head d_head", "blocks.*.attn.W_V.bias", our_axes="(kv_head d_head)"),
    "blocks.*.attn.W_O": place("head d_head d_model", "blocks.*.attn.W_O.weight", our_axes="d_model (head d_head)"),
    "blocks.*.attn.b_O": place("d_model", "blocks.*.attn.W_O.bias"),
    "blocks.*.ln2.w": place("d_model", "blocks.*.ln2.weight"),
    "blocks.*.ln2.b": place("d_model", "blocks.*.ln2.bias"),
    "blocks.*.mlp.W_gate": place("d_model d_mlp", "blocks.*.mlp.W_gate.weight", our_axes="d_mlp d_model"),
    "blocks.*.mlp.W_in": place("d_model d_mlp", "blocks.*.mlp.W_in.weight", our_axes="d_mlp d_model"),
    "blocks.*.mlp.b_in": place("d_mlp", "blocks.*.mlp.W_in.bias"),
    "blocks.*.mlp.W_out": place("d_mlp d_model", "blocks.*.mlp.W_out.weight", our_axes="d_model d_mlp"),
    "blocks.*.mlp.b_out": place("d_model", "blocks.*.mlp.W_out.bias"),
    "ln_final.w": place("d_model", "unembed.ln_final.weight"),
    "ln_final.b": place("d_model", "unembed.ln_final.bias"),
    "unembed.W_U": place("d_model d_vocab_out", "unembed.W_U.weight", our_axes="d_vocab_out d_model"),
    "unembed.b_U": place("d_vocab_out", "unembed.W_U.bias"),
}

# TransformerLens has every bias in every model. One that is zero may be left out; for another the configuration needs this.
_REMEDIES = {
    r"attn\._?b_[QKVO]": "set attn_bias=True",
    r"mlp\.b_(in|out)": "set mlp_bias=True",
    r"ln\w+\.b": "set norm_bias=True",
    r"unembed\.b_U": "set unembed_bias=True",
    r"pos_embed\.W_pos": 'set position="learned" or "attention_only"',
}

_BUFFERS = r"attn\.(mask|IGNORE|rotary_sin|rotary_cos)"


class TransformerLensState(ForeignState):
    """A state dictionary of TransformerLens 2 in a `.pt` or `.safetensors` file, with the shape of its model, which it does not hold.

    Norms whose weights were folded into the layers after them have weight 1 and bias 0. What the shape has no place for must be zero:
    nothing is dropped that would change the logits. Raises ValueError for what does not fit, naming the tensor. Source:
    TransformerLensOrg/TransformerLens 2.18, `components/`.
    """

    kind: ClassVar[str] = "TransformerLens state"
    _layers_in = "blocks"

    def __init__(self, path: str | Path, config: ModelConfig) -> None:
        path = Path(path)
        tensors = read_checkpoint(path)
        check_tensors(path, tensors)
        self._is_folded = not any(re.search(r"\bln\w+\.[wb]$", name) for name in tensors)
        super().__init__(path, config, tensors, _places(config, tensors))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors, each a copy that does not depend on the file any more.

        Raises ValueError for a tensor that the configuration leaves out although it does something.
        """
        for name in self._left_out:
            self._check_left_out(name)
        yield from super().tensors()
        expected, dtype = shapes(self.config), self._tensors["embed.W_E"].dtype
        for ours in self._absent:
            yield ours, torch.full(expected[ours], 1.0 if ours.endswith("weight") else 0.0, dtype=dtype)

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


def _places(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    places = dict(_PLACES)
    if config.position == "attention_only":
        places["pos_embed.W_pos"] = place("n_ctx d_model", "qk_positions.W_pos")
    if config.gated_mlp:
        del places["blocks.*.mlp.b_in"]  # stands after the gate
    if "blocks.0.attn._W_K" in tensors:  # as grouped heads are stored
        for part in ("W_K", "b_K", "W_V", "b_V"):
            places[f"blocks.*.attn._{part}"] = places.pop(f"blocks.*.attn.{part}")
    return places


def is_transformer_lens(names: Iterable[object]) -> bool:
    """Whether these are names of TransformerLens."""
    return {"embed.W_E", "unembed.W_U"} <= set(names)


def _are_equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)
