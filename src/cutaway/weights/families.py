"""Families of Hugging Face models as tables: which of their settings and tensors are which of ours, to be read in both directions."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch

from cutaway.config import ModelConfig
from cutaway.weights.renaming import Renaming
from cutaway.weights.source import parameter_shapes

__all__ = ["Setting", "Family", "FAMILIES", "HEAD", "family_of", "family_for"]

_REQUIRED: Any = object()
HEAD = "lm_head.weight"
"""The unembedding in every family; beside a tied embedding it is a copy."""

_ONLY: dict[str, Any] = {"quantization_config": None, "is_encoder_decoder": False}


class Setting(NamedTuple):
    """One setting of theirs that is one of ours; `default` is what the transformers library takes where a file leaves it out.

    `read` returns the value as JSON has it, or raises ValueError for one that is none. `to_ours` and `to_theirs` are for a value that
    means another thing there: they see the settings read before it, and the whole configuration.
    """

    theirs: str
    ours: str
    read: Callable[[Any], Any]
    default: Any = _REQUIRED
    to_ours: Callable[[Any, dict[str, Any]], Any] | None = None
    to_theirs: Callable[[ModelConfig], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """Hugging Face models that share code there: how their configurations and tensors are ours."""

    name: str
    """Their `model_type`."""
    architectures: tuple[str, ...]
    """Their classes whose weights these are; a model is written as the first."""
    prefix: str
    """What the names of all tensors but the head begin with; files of the bare model leave it out."""
    settings: tuple[Setting, ...]
    choices: Mapping[str, Any]
    """What every model of the family has, in our words."""
    only: Mapping[str, Any]
    """The one value that we compute for a setting of theirs; a file that leaves it out means the same."""
    dropouts: tuple[str, ...] = ()
    """Where our dropout is written; it belongs to training, so a model is read without."""
    rows: tuple[Renaming, ...]
    no_weights: str
    """A pattern for tensors in old files that are computed and not learned."""

    def config_from_hf(self, theirs: Mapping[str, Any]) -> ModelConfig:
        """Translate what their `config.json` holds; raises ValueError naming the setting that is missing, wrong or not supported."""
        theirs = _with_flat_rotation(theirs)
        for name, value in {**_ONLY, **self.only}.items():
            if theirs.get(name) not in (None, value):
                raise ValueError(f"{name} is {theirs[name]!r}, which changes what the model computes; supported is {value!r}")
        ours = dict(self.choices)
        for setting in self.settings:
            ours |= _read(setting, theirs, ours)
        config = ModelConfig.from_dict(ours)
        window = theirs.get("sliding_window")
        if window is not None and not (isinstance(window, int) and window >= config.n_ctx):
            raise ValueError(f"sliding_window is {window!r}; supported is attention to the whole context of {config.n_ctx}")
        return config

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """Return the settings that `config.json` is to hold, for a configuration that `family_for` gave this family."""
        return {
            "architectures": [self.architectures[0]],
            "model_type": self.name,
            **{each.theirs: each.to_theirs(config) if each.to_theirs else getattr(config, each.ours) for each in self.settings},
            **dict.fromkeys(self.dropouts, config.dropout),
        }

    def differences(self, config: ModelConfig) -> dict[str, Any]:
        """Return our settings in which no model of this family is like `config`, with the value that it would have."""
        wrong = {name: value for name, value in self.choices.items() if getattr(config, name) != value}
        wrong |= {name: "at least 1" for name in ("n_layers", "d_mlp") if getattr(config, name) == 0}
        if config.d_model % config.n_heads:
            wrong["n_heads"] = f"a divisor of d_model {config.d_model}"
        if wrong:
            return wrong
        again = self.config_from_hf(self.config_to_hf(config))  # whatever has no place there comes back as something else
        without_effect = {"dropout"} if config.position == "rotary" else {"dropout", "rotary_base"}
        names = {field.name for field in fields(config)} - without_effect
        return {name: getattr(again, name) for name in sorted(names) if getattr(again, name) != getattr(config, name)}

    def rows_of(self, config: ModelConfig) -> dict[str, Renaming]:
        """Return the row of every tensor that a file of this shape holds, by its full name there."""
        return {name: row for name, (row, _) in self._expected(config).items()}

    def match(self, shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> dict[str, Renaming]:
        """Return the row of each tensor of a file, by its name in the file; those that are no weights of their own are left out.

        Raises ValueError naming the tensor when one is missing, is not the model's, comes twice, or has another shape.
        """
        if config.n_layers > len(shapes):
            raise ValueError(f"the configuration asks for {config.n_layers} layers; there are {len(shapes)} tensors in all")
        expected = self._expected(config)
        rows: dict[str, Renaming] = {}
        for name, shape in shapes.items():
            full = self.full_name(name)
            if re.fullmatch(self.no_weights, full) or (config.tie_embeddings and full == HEAD):
                continue
            if full not in expected:
                raise ValueError(f"the tensor {name} {list(shape)} is none that the configuration knows")
            row, wanted = expected[full]
            if tuple(shape) != wanted:
                ours = ", ".join(row.ours)
                raise ValueError(f"{name} ({ours}) has shape {list(shape)}; the configuration expects {list(wanted)}")
            rows[name] = row
        found = {row.theirs for row in rows.values()}
        if len(found) < len(rows):
            raise ValueError(f"a tensor is there twice, with and without the prefix {self.prefix!r}")
        if missing := [row for name, (row, _) in expected.items() if name not in found]:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            ours = ", ".join(missing[0].ours)
            raise ValueError(f"{missing[0].theirs} ({ours}){more} is missing, which the configuration asks for")
        return rows

    def full_name(self, name: str) -> str:
        """Return the name that a tensor has in the model with its head."""
        return name if name.startswith((self.prefix, "lm_head.")) else self.prefix + name

    def _expected(self, config: ModelConfig) -> dict[str, tuple[Renaming, tuple[int, ...]]]:
        weights = {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(config).items()}
        rows = [
            row.named(layer=layer, kind=kind)
            for row in self.rows
            for layer in (range(config.n_layers) if "{layer}" in row.theirs else (0,))
            for kind in (("weight", "bias") if "{kind}" in row.theirs else ("",))
        ]
        present = [row for row in rows if weights.keys() >= set(row.ours)]
        return {row.theirs: (row, tuple(row.join(weights[each] for each in row.ours).shape)) for row in present}


def family_of(theirs: Mapping[str, Any]) -> Family:
    """Return the family of a `config.json`; raises ValueError for a model that is not supported, saying which are."""
    model_type, architectures = theirs.get("model_type"), theirs.get("architectures") or []
    names = {str(name) for name in architectures} if isinstance(architectures, list) else {str(architectures)}
    if model_type is not None or names:
        for family in FAMILIES.values():
            if model_type in (None, family.name) and names <= set(family.architectures):
                return family
    given = f"model_type {model_type!r}, architectures {sorted(names)}"
    supported = ", ".join(f"{family.name!r} with {family.architectures[0]}" for family in FAMILIES.values())
    raise ValueError(f"a model of this kind ({given}) is not supported; supported are {supported}")


def family_for(config: ModelConfig) -> Family:
    """Return the family that has models of this shape; raises ValueError naming the settings that none has."""
    differences = {name: family.differences(config) for name, family in FAMILIES.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    if wrong := differences[nearest]:
        ours = ", ".join(f"{name} is {getattr(config, name)!r} (there {value!r})" for name, value in wrong.items())
        raise ValueError(
            f"no Hugging Face family of {', '.join(FAMILIES)} has a model like this; nearest is {nearest}, but {ours}: train a model "
            "with the settings there, or keep this one in cutaway's own format"
        )
    return FAMILIES[nearest]


def _read(setting: Setting, theirs: Mapping[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    value = theirs.get(setting.theirs)
    if value is None:
        value = setting.default
    if value is _REQUIRED:
        raise ValueError(f"the configuration lacks {setting.theirs}")
    if value is None:  # a size that follows from the others
        return {}
    try:
        value = setting.read(value)
    except ValueError as error:
        raise ValueError(f"{setting.theirs} is {value!r}; expected {error}") from None
    return {setting.ours: setting.to_ours(value, ours) if setting.to_ours else value}


_LARGEST = 2**24  # beyond every real size; sizes that a damaged file makes up must not keep the machine busy


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST:
        return value
    raise ValueError(f"a whole number from 1 to {_LARGEST}")


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return float(value)
    raise ValueError("a number of at least 0")


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


# transformers, activations.py: the names there of the functions that we have; those of ours come first
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_new", "relu": "relu", "silu": "silu",
    "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_new", "gelu_python_tanh": "gelu_new", "swish": "silu",
}  # fmt: skip


def _activation(value: Any) -> str:
    if isinstance(value, str) and value in _ACTIVATIONS:
        return _ACTIVATIONS[value]
    raise ValueError(f"one of {', '.join(_ACTIVATIONS)}")


def _turning_coordinates(fraction: float, ours: dict[str, Any]) -> int:
    return int((ours.get("d_head") or ours["d_model"] // ours["n_heads"]) * fraction)


def _turning_fraction(config: ModelConfig) -> float:
    fraction = config.rotary_dim / config.d_head
    is_below = int(config.d_head * fraction) < config.rotary_dim  # as readers round down what float64 has rounded
    return math.nextafter(fraction, math.inf) if is_below else fraction


def _with_flat_rotation(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of the rotation beside the others; transformers 5 has them in `rope_parameters`."""
    place = "rope_scaling" if theirs.get("rope_scaling") else "rope_parameters"
    rotation = theirs.get(place) or {}
    if not isinstance(rotation, dict):
        raise ValueError(f"{place} is {rotation!r}; expected an object")  # noqa: TRY004
    kind = rotation.get("rope_type", rotation.get("type")) or "default"
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if kind != "default" or rotation.keys() - known:
        raise ValueError(
            f"{place} is {rotation!r}; supported is one rotation for all layers that nothing scales, of type 'default'"
        )
    return {**theirs, **{name: value for name, value in rotation.items() if value is not None}}


_GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    prefix="transformer.",
    settings=(
        Setting("vocab_size", "d_vocab", _whole),
        Setting("n_positions", "n_ctx", _whole),
        Setting("n_layer", "n_layers", _whole),
        Setting("n_head", "n_heads", _whole),
        Setting("n_embd", "d_model", _whole),
        Setting("n_inner", "d_mlp", _whole, None),
        Setting("layer_norm_epsilon", "norm_eps", _number, 1e-5),
        Setting("activation_function", "act", _activation, "gelu_new"),
        Setting("tie_word_embeddings", "tie_embeddings", _truth, True),
    ),
    choices={
        "norm": "layernorm", "norm_bias": True, "position": "learned", "gated_mlp": False, "block": "sequential",
        "attn_bias": True, "mlp_bias": True,
    },
    # reorder_and_upcast_attn is not here: it changes roundings alone
    only={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    dropouts=("embd_pdrop", "attn_pdrop", "resid_pdrop"),
    rows=(
        Renaming("transformer.wte.weight", ("embed.W_E",)),
        Renaming("transformer.wpe.weight", ("embed.pos_embed.W_pos",)),
        Renaming("transformer.h.{layer}.ln_1.{kind}", ("blocks.{layer}.ln1.{kind}",)),
        Renaming(
            "transformer.h.{layer}.attn.c_attn.{kind}",
            ("blocks.{layer}.attn.W_Q.{kind}", "blocks.{layer}.attn.W_K.{kind}", "blocks.{layer}.attn.W_V.{kind}"),
            is_conv1d=True,
        ),
        Renaming("transformer.h.{layer}.attn.c_proj.{kind}", ("blocks.{layer}.attn.W_O.{kind}",), is_conv1d=True),
        Renaming("transformer.h.{layer}.ln_2.{kind}", ("blocks.{layer}.ln2.{kind}",)),
        Renaming("transformer.h.{layer}.mlp.c_fc.{kind}", ("blocks.{layer}.mlp.W_in.{kind}",), is_conv1d=True),
        Renaming("transformer.h.{layer}.mlp.c_proj.{kind}", ("blocks.{layer}.mlp.W_out.{kind}",), is_conv1d=True),
        Renaming("transformer.ln_f.{kind}", ("unembed.ln_final.{kind}",)),
        Renaming("lm_head.weight", ("unembed.W_U.weight",)),
    ),
    no_weights=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",  # the triangle of causality
)  # fmt: skip

_ROTARY_SIZES = (
    Setting("vocab_size", "d_vocab", _whole),
    Setting("max_position_embeddings", "n_ctx", _whole),
    Setting("num_hidden_layers", "n_layers", _whole),
    Setting("num_attention_heads", "n_heads", _whole),
    Setting("num_key_value_heads", "n_kv_heads", _whole, None),
    Setting("hidden_size", "d_model", _whole),
    Setting("head_dim", "d_head", _whole, None),
    Setting("intermediate_size", "d_mlp", _whole),
    Setting("rope_theta", "rotary_base", _number, 10_000.0),
    Setting("tie_word_embeddings", "tie_embeddings", _truth, False),
)
_ROTARY_ROWS = (
    Renaming("model.embed_tokens.weight", ("embed.W_E",)),
    Renaming("model.layers.{layer}.input_layernorm.{kind}", ("blocks.{layer}.ln1.{kind}",)),
    Renaming("model.layers.{layer}.self_attn.q_proj.{kind}", ("blocks.{layer}.attn.W_Q.{kind}",)),
    Renaming("model.layers.{layer}.self_attn.k_proj.{kind}", ("blocks.{layer}.attn.W_K.{kind}",)),
    Renaming("model.layers.{layer}.self_attn.v_proj.{kind}", ("blocks.{layer}.attn.W_V.{kind}",)),
    Renaming("lm_head.{kind}", ("unembed.W_U.{kind}",)),
)
_FREQUENCIES = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

_PHI = Family(
    name="phi",
    architectures=("PhiForCausalLM", "PhiModel"),
    prefix="model.",
    settings=(
        *_ROTARY_SIZES,
        Setting("partial_rotary_factor", "rotary_dim", _number, 0.5, _turning_coordinates, _turning_fraction),
        Setting("layer_norm_eps", "norm_eps", _number, 1e-5),
        Setting("hidden_act", "act", _activation, "gelu_new"),
    ),
    choices={
        "norm": "layernorm", "norm_bias": True, "position": "rotary", "gated_mlp": False, "block": "parallel",
        "attn_bias": True, "mlp_bias": True, "unembed_bias": True,
    },
    only={"qk_layernorm": False},
    dropouts=("embd_pdrop", "attention_dropout", "resid_pdrop"),
    rows=(
        *_ROTARY_ROWS,
        Renaming("model.layers.{layer}.self_attn.dense.{kind}", ("blocks.{layer}.attn.W_O.{kind}",)),
        Renaming("model.layers.{layer}.mlp.fc1.{kind}", ("blocks.{layer}.mlp.W_in.{kind}",)),
        Renaming("model.layers.{layer}.mlp.fc2.{kind}", ("blocks.{layer}.mlp.W_out.{kind}",)),
        Renaming("model.final_layernorm.{kind}", ("unembed.ln_final.{kind}",)),
    ),
    no_weights=_FREQUENCIES,
)  # fmt: skip

_LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "LlamaModel"),
    prefix="model.",
    settings=(
        *_ROTARY_SIZES,
        Setting("rms_norm_eps", "norm_eps", _number, 1e-6),
        Setting("hidden_act", "act", _activation, "silu"),
        Setting("attention_bias", "attn_bias", _truth, False),
        Setting("mlp_bias", "mlp_bias", _truth, False),
    ),
    choices={"norm": "rmsnorm", "norm_bias": False, "position": "rotary", "gated_mlp": True, "block": "sequential"},
    only={"partial_rotary_factor": 1.0, "rope_interleaved": False},
    rows=(
        *_ROTARY_ROWS,
        Renaming("model.layers.{layer}.self_attn.o_proj.{kind}", ("blocks.{layer}.attn.W_O.{kind}",)),
        Renaming("model.layers.{layer}.post_attention_layernorm.{kind}", ("blocks.{layer}.ln2.{kind}",)),
        Renaming("model.layers.{layer}.mlp.gate_proj.{kind}", ("blocks.{layer}.mlp.W_gate.{kind}",)),
        Renaming("model.layers.{layer}.mlp.up_proj.{kind}", ("blocks.{layer}.mlp.W_in.{kind}",)),
        Renaming("model.layers.{layer}.mlp.down_proj.{kind}", ("blocks.{layer}.mlp.W_out.{kind}",)),
        Renaming("model.norm.{kind}", ("unembed.ln_final.{kind}",)),
    ),
    no_weights=_FREQUENCIES,
)

FAMILIES: dict[str, Family] = {family.name: family for family in (_GPT2, _PHI, _LLAMA)}
