"""One layer: attention and MLP read the residual stream and add to it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cutaway.config import Activation, BlockKind, Norm
from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.model.attention import Attention
from cutaway.model.kv_cache import ExtendKV
from cutaway.model.masks import Mask
from cutaway.model.mlp import MLP, GatedMLP
from cutaway.model.norms import make_norm
from cutaway.model.positions import Rotation
from cutaway.values import look_up

__all__ = ["Block"]


class Block(nn.Module):
    """`x + attn(ln1(x))`, then `x + mlp(ln2(x))`; in parallel `x + attn(ln1(x)) + mlp(ln1(x))`; with d_mlp=0 attention alone.

    Hooks: `resid_pre attn_out resid_mid mlp_out resid_post` and those of its parts; a parallel block or one without an MLP has no
    `resid_mid`.

    >>> import torch
    >>> from cutaway.model import Block
    >>> Block(d_model=32, n_heads=4)(torch.randn(2, 5, 32), mask="causal").shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        d_mlp: int | None = None,
        norm: Norm = "layernorm",
        norm_eps: float = 1e-5,
        norm_bias: bool = True,
        attn_bias: bool = True,
        act: Activation = "gelu_new",
        gated_mlp: bool = False,
        mlp_bias: bool = True,
        block: BlockKind = "sequential",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.is_parallel = look_up({"sequential": False, "parallel": True}, block, "block")
        self.ln1 = make_norm(norm, d_model, eps=norm_eps, bias=norm_bias)
        self.attn = Attention(d_model, n_heads, n_kv_heads=n_kv_heads, d_head=d_head, bias=attn_bias, dropout=dropout)
        self.ln2 = None if self.is_parallel or d_mlp == 0 else make_norm(norm, d_model, eps=norm_eps, bias=norm_bias)
        make_mlp = GatedMLP if gated_mlp else MLP
        self.mlp = None if d_mlp == 0 else make_mlp(d_model, d_mlp, act=act, bias=mlp_bias, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch pos d_model"],
        *,
        mask: Mask = None,
        rotation: Rotation | None = None,
        qk_offset: Float[Tensor, "*#batch pos d_model"] | None = None,
        extend_kv: ExtendKV | None = None,
        n_last: int | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Float[Tensor, "*batch last_pos d_model"]:
        """Return the residual stream after this layer, of the last `n_last` positions or of all.

        `qk_offset` is added to what queries and keys are made of.
        """
        x = hooks("resid_pre", x)
        normed = self.ln1(x, hooks=hooks.at("ln1"))
        q_in = k_in = normed if qk_offset is None else normed + qk_offset
        v_in = normed
        if n_last is not None:
            x, q_in, normed = x[..., -n_last:, :], q_in[..., -n_last:, :], normed[..., -n_last:, :]
        attn_out = self.attn(q_in, k_in, v_in, mask=mask, rotation=rotation, extend_kv=extend_kv, hooks=hooks.at("attn"))
        attn_out = hooks("attn_out", attn_out)
        if self.mlp is None:
            return hooks("resid_post", x + attn_out)
        if self.ln2 is None:
            mlp_out = hooks("mlp_out", self.mlp(normed, hooks=hooks.at("mlp")))
            return hooks("resid_post", x + attn_out + mlp_out)
        return self.add_mlp(x + attn_out, hooks=hooks)

    def add_mlp(self, x: Float[Tensor, "*batch pos d_model"], *, hooks: Hooks = NO_HOOKS) -> Float[Tensor, "*batch pos d_model"]:
        """Return `x + mlp(ln2(x))`, the second half of a sequential block."""
        x = hooks("resid_mid", x)
        mlp_out = hooks("mlp_out", self.mlp(self.ln2(x, hooks=hooks.at("ln2")), hooks=hooks.at("mlp")))  # type: ignore[misc]
        return hooks("resid_post", x + mlp_out)
