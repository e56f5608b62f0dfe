"""Normalisation of each position's residual vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.config import Norm
from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.values import look_up

__all__ = ["LayerNorm", "RMSNorm", "NoNorm", "make_norm", "at_least_float32"]


class _ScaledNorm(nn.Module):
    """What LayerNorm and RMSNorm share: a weight for every coordinate, and perhaps a bias."""

    def __init__(self, d_model: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def _stretch(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return x * self.weight if self.bias is None else x * self.weight + self.bias


class LayerNorm(_ScaledNorm):
    """`(x - mean) / scale * weight + bias` with `scale = sqrt(var + eps)` (Ba et al. 2016).

    Hooks: `scale`, computed apart only when asked for, and `normalized`, the output with weight and bias.

    >>> import torch
    >>> from cutaway.model import LayerNorm
    >>> LayerNorm(d_model=8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(d_model, eps=eps, bias=bias)

    def forward(self, x: Float[Tensor, "... d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis; 16-bit inputs are normalised in float32."""
        if not hooks.wants("scale"):
            return hooks("normalized", F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps))
        wide = at_least_float32(x)
        centred = wide - wide.mean(-1, keepdim=True)
        scale = hooks("scale", (centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return hooks("normalized", self._stretch(centred / scale).to(x.dtype))


class RMSNorm(_ScaledNorm):
    """`x / scale * weight` with `scale = sqrt(mean(x^2) + eps)` (Zhang & Sennrich 2019).

    Hooks: `scale`, and `normalized`, `x / scale` before the weight: as in TransformerLens 2, where LayerNorm's alone is after it.

    >>> import torch
    >>> from cutaway.model import RMSNorm
    >>> RMSNorm(d_model=8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(d_model, eps=eps, bias=bias)

    def forward(self, x: Float[Tensor, "... d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis; 16-bit inputs are normalised in float32."""
        wide = at_least_float32(x)
        scale = hooks("scale", (wide.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self._stretch(hooks("normalized", (wide / scale).to(x.dtype)))


class NoNorm(nn.Module):
    """`x` as it is, for models without normalisation; no hooks, as nothing is computed."""

    def __init__(self, d_model: int, *, eps: float = 0.0, bias: bool = False) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: Float[Tensor, "... d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "... d_model"]:  # noqa: ARG002
        """Return `x`."""
        return x


_NORMS: dict[Norm, Callable[..., LayerNorm | RMSNorm | NoNorm]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm, "none": NoNorm}


def make_norm(norm: Norm, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> LayerNorm | RMSNorm | NoNorm:
    """Return the normalisation of this name."""
    return look_up(_NORMS, norm, "norm")(d_model, eps=eps, bias=bias)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is where it has more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
