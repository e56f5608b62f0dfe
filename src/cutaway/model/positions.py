"""How a position enters the model: as a vector added, or as a turn of queries and keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["LearnedPositions", "SinusoidalPositions", "Rotary", "Rotation"]


class LearnedPositions(nn.Module):
    """One learned vector for each of the `n_ctx` positions, as in GPT-2.

    >>> import torch
    >>> from cutaway.model import LearnedPositions
    >>> LearnedPositions(n_ctx=16, d_model=8)(torch.arange(5)).shape
    torch.Size([5, 8])
    """

    def __init__(self, n_ctx: int, d_model: int) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.randn(n_ctx, d_model).mul_(0.01))

    def forward(self, positions: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
        """Look up the vector of each position."""
        return F.embedding(positions, self.W_pos)


class SinusoidalPositions(nn.Module):
    """Sines in the even coordinates and cosines in the odd, at wavelengths from 2 pi to `base` times that.

    Source: Vaswani et al. 2017, section 3.5.

    >>> import torch
    >>> from cutaway.model import SinusoidalPositions
    >>> SinusoidalPositions(d_model=8)(torch.arange(5)).shape
    torch.Size([5, 8])
    """

    def __init__(self, d_model: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model for their pairs, not {d_model}")
        self.d_model, self.base = d_model, base

    def forward(self, positions: Int[Tensor, "*batch pos"]) -> Float[Tensor, "*batch pos d_model"]:
        """Compute the vector of each position, in float32."""
        angles = _angles(positions, self.d_model, self.base)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # ... pos pair 2 -> ... pos d_model


class Rotation(NamedTuple):
    """The cosine and sine of every position's angles, each `"*batch pos pair"`."""

    cos: Float[Tensor, "*batch pos pair"]
    sin: Float[Tensor, "*batch pos pair"]

    def turn(self, x: Float[Tensor, "*batch last_pos head d_head"]) -> Float[Tensor, "*batch last_pos head d_head"]:
        """Turn coordinate i with coordinate i + rotary_dim / 2; coordinates past rotary_dim stay (partial rotary).

        Fewer vectors than angles are at the last positions.
        """
        cos, sin = (each[..., -x.shape[-3] :, None, :].to(x.dtype) for each in self)  # ... pos 1 pair
        n_pairs = cos.shape[-1]
        first, second, rest = x.split([n_pairs, n_pairs, x.shape[-1] - 2 * n_pairs], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class Rotary(nn.Module):
    """Rotary positions: pairs of coordinates of queries and keys turn by an angle proportional to the position.

    A dot product of two turned vectors depends on the distance of their positions alone. The pairs are (i, i + rotary_dim / 2), as in
    Phi and Llama; the angles are computed in float32, as those models were trained. Source: Su et al. 2021, section 3.4.2.

    >>> import torch
    >>> from cutaway.model import Rotary
    >>> rotary = Rotary(d_head=8)
    >>> rotary(torch.randn(2, 5, 4, 8), torch.arange(5)).shape
    torch.Size([2, 5, 4, 8])
    """

    def __init__(self, d_head: int, *, rotary_dim: int | None = None, base: float = 10_000.0) -> None:
        super().__init__()
        self.rotary_dim, self.base = rotary_dim or d_head, base
        if self.rotary_dim % 2 or self.rotary_dim > d_head:
            raise ValueError(f"rotary_dim is {self.rotary_dim}; expected an even number of at most d_head {d_head}")

    def rotation(self, positions: Int[Tensor, "*batch pos"]) -> Rotation:
        """Compute the angles once, for all layers to use."""
        angles = _angles(positions, self.rotary_dim, self.base)
        return Rotation(angles.cos(), angles.sin())

    def forward(
        self, x: Float[Tensor, "*batch pos head d_head"], positions: Int[Tensor, "..."]
    ) -> Float[Tensor, "*batch pos head d_head"]:
        """Turn queries or keys as their positions, `"pos"` or `"batch pos"`, ask."""
        return self.rotation(positions).turn(x)


def _angles(positions: Tensor, dim: int, base: float) -> Tensor:
    """Return position times frequency base^(-2i/dim), float32 "... pos pair"."""
    exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=positions.device).float() / dim
    return positions.unsqueeze(-1).float() * (1.0 / base**exponents)
