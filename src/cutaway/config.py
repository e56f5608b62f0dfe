"""The shape of a transformer as one immutable value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from cutaway.presets import MODEL_PRESETS
from cutaway.values import check_names, check_types

__all__ = ["Norm", "Position", "Activation", "BlockKind", "ModelConfig"]

Norm = Literal["layernorm", "rmsnorm", "none"]
Position = Literal["learned", "sinusoidal", "rotary", "attention_only", "none"]
Activation = Literal["gelu", "gelu_new", "relu", "silu"]
BlockKind = Literal["sequential", "parallel"]

_SIZES = ("d_vocab", "n_ctx", "n_layers", "n_heads", "d_model", "n_kv_heads", "d_head", "d_mlp", "d_vocab_out")
_DERIVED: Any = None  # a size that follows from the others unless it is given


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every choice that makes one transformer differ from another; the defaults are GPT-2's.

    Sizes left out follow from the others: `n_kv_heads = n_heads`, `d_head = d_model / n_heads`, `d_mlp = 4 d_model` (0 builds an
    attention-only model), `d_vocab_out = d_vocab`, `rotary_dim = d_head`. Raises ValueError for sizes that do not fit together.

    >>> ModelConfig(d_vocab=65, n_ctx=64, n_layers=4, n_heads=4, d_model=128).d_mlp
    512
    """

    d_vocab: int
    """Tokens in the vocabulary."""
    n_ctx: int
    """The most positions that the model reads."""
    n_layers: int
    """Blocks of attention and MLP."""
    n_heads: int
    """Attention heads in a layer."""
    d_model: int
    """Width of the residual stream."""
    n_kv_heads: int = _DERIVED
    """Heads of keys and values, shared by groups of query heads."""
    d_head: int = _DERIVED
    """Width of a head's queries, keys and values."""
    d_mlp: int = _DERIVED
    """Width of the hidden layer; 0 for attention alone."""
    d_vocab_out: int = _DERIVED
    """Logits, when they are not one for each token."""
    norm: Norm = "layernorm"
    """How the residual stream is scaled before each part reads it."""
    norm_eps: float = 1e-5
    """What is added to the variance, so that nothing is divided by 0."""
    norm_bias: bool = _DERIVED
    """Whether norms add a vector: LayerNorm's do."""
    position: Position = "learned"
    """How the model knows positions; attention_only adds learned ones to what queries and keys read, not to the stream."""
    rotary_dim: int = _DERIVED
    """Coordinates of each head that turn."""
    rotary_base: float = 10_000.0
    """What the rotations' wavelengths are powers of."""
    attn_bias: bool = True
    """Whether the four matrices of attention add a vector."""
    is_causal: bool = True
    """Whether a position sees none after it."""
    act: Activation = "gelu_new"
    """The nonlinearity of the MLP; gelu_new is GPT-2's tanh form."""
    gated_mlp: bool = False
    """Whether a second matrix scales what the hidden layer holds."""
    mlp_bias: bool = True
    """Whether the matrices of the MLP add a vector."""
    block: BlockKind = "sequential"
    """What the MLP reads: sequential, the stream after attention; parallel, what attention reads."""
    tie_embeddings: bool = True
    """Whether the unembedding is the embedding."""
    unembed_bias: bool = False
    """Whether the unembedding adds a vector."""
    dropout: float = 0.0
    """The share of activations put to 0 while training."""

    def __post_init__(self) -> None:
        check_types(self)
        self._check_numbers()
        for name, size in self._derived().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        self._check_fit()

    def _derived(self) -> dict[str, int]:
        d_head = self.d_model // self.n_heads
        return {
            "n_kv_heads": self.n_heads,
            "d_head": d_head,
            "d_mlp": 4 * self.d_model,
            "d_vocab_out": self.d_vocab,
            "norm_bias": self.norm == "layernorm",
            "rotary_dim": (self.d_head or d_head) if self.position == "rotary" else 0,
        }

    def _check_numbers(self) -> None:
        for name in _SIZES:
            size, least = getattr(self, name), 0 if name in ("d_mlp", "n_layers") else 1
            if size is not None and size < least:
                raise ValueError(f"{name} is {size}; expected a whole number of at least {least}")
        for name in ("norm_eps", "rotary_base"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected at least 0 and less than 1")
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} does not divide into n_heads {self.n_heads}: change one, or give d_head")

    def _check_fit(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide into n_kv_heads {self.n_kv_heads} groups")
        if self.position == "rotary" and (self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.d_head):
            raise ValueError(f"rotary_dim is {self.rotary_dim}; expected an even number of at most d_head {self.d_head}")
        if self.tie_embeddings and self.d_vocab_out != self.d_vocab:
            raise ValueError(f"d_vocab_out {self.d_vocab_out} is not d_vocab {self.d_vocab}: set tie_embeddings=False")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return the named shape, with `changes` to its fields; raises ValueError for a name that is not known.

        >>> ModelConfig.preset("gpt2", n_layers=2).n_layers
        2
        """
        if name not in MODEL_PRESETS:
            raise ValueError(f"there is no model preset {name!r}; there are {', '.join(MODEL_PRESETS)}")
        return cls.from_dict({**MODEL_PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from JSON's values; raises ValueError for a field that is unknown or missing."""
        check_names(values, cls, "configuration")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a value that JSON can hold."""
        return asdict(self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; sizes that follow from others follow again.

        >>> ModelConfig.preset("gpt2").replace(d_model=384).d_mlp
        1536
        """
        following = {name: _DERIVED for name, size in self._derived().items() if getattr(self, name) == size}
        return replace(self, **{**following, **changes})
