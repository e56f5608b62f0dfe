"""Attention: every position reads from the positions it may see."""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.model.kv_cache import ExtendKV
from cutaway.model.masks import Mask, explicit_mask
from cutaway.model.positions import Rotation
from cutaway.values import size_or

__all__ = ["attend", "fused_attend", "Attention"]


def attend(
    q: Float[Tensor, "*heads q_pos d_head"],
    k: Float[Tensor, "*kv_heads k_pos d_head"],
    v: Float[Tensor, "*kv_heads k_pos d_head"],
    mask: Mask = None,
    *,
    dropout: float = 0.0,
    hooks: Hooks = NO_HOOKS,
) -> Float[Tensor, "*heads q_pos d_head"]:
    """Return `softmax(q k^T / sqrt(d_head)) v` over the keys that `mask` allows (Vaswani et al. 2017, equation 1).

    Fewer key heads than query heads are shared by groups of them (grouped-query attention). A query that may see no key reads zero.
    Hooks: `attn_scores`, after the mask, and `pattern`.

    >>> import torch
    >>> from cutaway.model import attend
    >>> q, k, v = torch.randn(3, 4, 8)
    >>> attend(q, k, v, "causal").shape
    torch.Size([4, 8])
    """
    k, v = _one_for_each_query_head(q, k), _one_for_each_query_head(q, v)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = explicit_mask(mask, q.shape[-2], k.shape[-2], q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    pattern = hooks("attn_scores", scores).softmax(dim=-1)
    if mask is not None:
        pattern = pattern.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)  # a row of -inf alone has no softmax
    pattern = hooks("pattern", F.dropout(pattern, dropout))
    return pattern @ v


def fused_attend(
    q: Float[Tensor, "*heads q_pos d_head"],
    k: Float[Tensor, "*kv_heads k_pos d_head"],
    v: Float[Tensor, "*kv_heads k_pos d_head"],
    mask: Mask = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "*heads q_pos d_head"]:
    """Return what `attend` returns, in one kernel that never holds the pattern."""
    is_causal = isinstance(mask, str) and mask == "causal" and q.shape[-2] == k.shape[-2]
    attn_mask = None if is_causal else explicit_mask(mask, q.shape[-2], k.shape[-2], q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal, enable_gqa=q.shape[:-2] != k.shape[:-2])


class Attention(nn.Module):
    """Multi-head attention: queries, keys and values are linear in their inputs, and so is the output in what the heads read.

    `n_kv_heads` below `n_heads` shares keys and values among groups of heads (Ainslie et al. 2023). Hooks: `q k v` (before rotation),
    `rot_q rot_k`, `attn_scores pattern` (asking for one of these computes attention explicitly), `z` and `result`, each head's own
    output (computed only when asked for; the sum over heads plus the bias is the output).

    >>> import torch
    >>> from cutaway.model import Attention
    >>> attn = Attention(d_model=32, n_heads=4)
    >>> queries, keys = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    >>> attn(queries, keys, keys).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, size_or(n_heads, n_kv_heads, "n_kv_heads")
        self.d_head = size_or(d_model // n_heads, d_head, "d_head")
        if (d_head is None and d_model % n_heads) or n_heads % self.n_kv_heads:
            raise ValueError(f"d_model {d_model}, n_heads {n_heads} and n_kv_heads {self.n_kv_heads} do not divide")
        self.dropout = dropout
        self.W_Q = nn.Linear(d_model, self.n_heads * self.d_head, bias=bias)
        self.W_K = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.W_V = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias=bias)
        self.W_O = nn.Linear(self.n_heads * self.d_head, d_model, bias=bias)

    def forward(
        self,
        q_in: Float[Tensor, "*batch q_pos d_model"],
        k_in: Float[Tensor, "*batch new_pos d_model"] | None = None,
        v_in: Float[Tensor, "*batch new_pos d_model"] | None = None,
        *,
        mask: Mask = None,
        rotation: Rotation | None = None,
        extend_kv: ExtendKV | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Float[Tensor, "*batch q_pos d_model"]:
        """Read from the keys and values of `k_in` and `v_in`, or without them from those of `q_in` itself.

        Fewer queries than keys are the last positions. A mask `"batch q_pos k_pos"` is for all heads, one with an axis more for each
        by itself. `rotation` turns queries and keys; `extend_kv` puts the keys and values of
        earlier positions before the new ones.
        """
        k_in = q_in if k_in is None else k_in
        v_in = k_in if v_in is None else v_in
        q = hooks("q", _split(self.W_Q(q_in), self.n_heads))  # batch q_pos head d_head
        k = hooks("k", _split(self.W_K(k_in), self.n_kv_heads))  # batch new_pos kv_head d_head
        v = hooks("v", _split(self.W_V(v_in), self.n_kv_heads))  # batch new_pos kv_head d_head
        if rotation is not None:
            q, k = hooks("rot_q", rotation.turn(q)), hooks("rot_k", rotation.turn(k))
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # batch head pos d_head
        if isinstance(mask, Tensor):
            mask = mask[..., -q.shape[-2] :, :]
            mask = mask.unsqueeze(-3) if 2 < mask.ndim < q.ndim else mask  # the same for all heads
        if extend_kv is not None:
            k, v = extend_kv(k, v)
        dropout = self.dropout if self.training else 0.0
        if hooks.wants("attn_scores", "pattern"):
            z = attend(q, k, v, mask, dropout=dropout, hooks=hooks)
        else:
            z = fused_attend(q, k, v, mask, dropout=dropout)
        z = hooks("z", z.transpose(-3, -2))  # batch q_pos head d_head
        return F.dropout(self._write(z, hooks), dropout)

    def _write(self, z: Float[Tensor, "*batch pos head d_head"], hooks: Hooks) -> Float[Tensor, "*batch pos d_model"]:
        if not hooks.wants("result"):
            return self.W_O(z.flatten(-2))  # type: ignore[no-any-return]
        W_O = _split(self.W_O.weight, self.n_heads)  # d_model head d_head
        result = hooks("result", einsum(z, W_O, "... head d_head, d_model head d_head -> ... head d_model"))
        out = result.sum(dim=-2)
        return out if self.W_O.bias is None else out + self.W_O.bias


def _split(x: Tensor, n_heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], n_heads, -1)  # ... (head d_head) -> ... head d_head


def _one_for_each_query_head(q: Tensor, kv: Tensor) -> Tensor:
    """Repeat each key or value head for its group of query heads."""
    if q.shape[:-2] == kv.shape[:-2]:
        return kv
    return kv.repeat_interleave(q.shape[-3] // kv.shape[-3], dim=-3)
