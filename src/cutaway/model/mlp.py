"""The feed-forward layers: each position alone, through a wide hidden layer and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.config import Activation
from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.values import look_up, size_or

__all__ = ["ACTIVATIONS", "MLP", "GatedMLP"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # GPT-2's
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """`W_out act(W_in x)`; hooks `pre` and `post`, before and after the activation.

    >>> import torch
    >>> from cutaway.model import MLP
    >>> MLP(d_model=8, d_mlp=32)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_mlp: int | None = None,
        *,
        act: Activation = "gelu_new",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_mlp = size_or(4 * d_model, d_mlp, "d_mlp")
        self.act, self.dropout = look_up(ACTIVATIONS, act, "act"), dropout
        self.W_in = nn.Linear(d_model, d_mlp, bias=bias)
        self.W_out = nn.Linear(d_mlp, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "... d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "... d_model"]:
        """Transform each position by itself."""
        pre = hooks("pre", self.W_in(x))
        post = hooks("post", self.act(pre))
        return F.dropout(self.W_out(post), self.dropout, self.training)


class GatedMLP(MLP):
    """`W_out (act(W_gate x) * W_in x)`; hooks `pre` (of the gate), `pre_linear` and `post` (their product).

    Source: Shazeer 2020, equation 5; Llama's with act="silu".

    >>> import torch
    >>> from cutaway.model import GatedMLP
    >>> GatedMLP(d_model=8, d_mlp=32)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_mlp: int | None = None,
        *,
        act: Activation = "silu",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, d_mlp, act=act, bias=bias, dropout=dropout)
        self.W_gate = nn.Linear(d_model, self.W_in.out_features, bias=bias)

    def forward(self, x: Float[Tensor, "... d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "... d_model"]:
        """Transform each position by itself."""
        pre = hooks("pre", self.W_gate(x))
        pre_linear = hooks("pre_linear", self.W_in(x))
        post = hooks("post", self.act(pre) * pre_linear)
        return F.dropout(self.W_out(post), self.dropout, self.training)
