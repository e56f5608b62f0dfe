"""The circuits of a head: where it looks (QK) and what it moves (OV), as factored matrices."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored.matrix import FactoredMatrix
from cutaway.interp.factored.weights import W_E, W_K, W_O, W_Q, W_U, W_V, block_of, read_through
from cutaway.model import Transformer

__all__ = ["qk_circuit", "ov_circuit", "full_qk", "full_ov", "copying_scores"]


def qk_circuit(
    model: Transformer,
    layer: int,
    head: int | None = None,
    *,
    offset: int | None = None,
    k_pos: int = 0,
    with_norm: bool = False,
) -> FactoredMatrix:
    """Return `W_Q W_K^T`, d_model x d_model, of a head or of all: `x_q W_QK x_k^T` is `sqrt(d_head)` times the attention score.

    `x` is what attention reads, or with `with_norm` the residual stream over ln1's scale; biases are left out. With rotary positions
    there is one circuit for each `offset` (q_pos - k_pos, required): `W_Q R(q_pos)^T R(k_pos) W_K^T`, with the model's own rotations at
    `k_pos + offset` and `k_pos`. It depends on the offset alone but for rounding: the model computes angles in float32, which at
    position p are right to about p * 6e-8 radians; `k_pos` gives the circuit exactly as it is there. Other kinds of position have one
    circuit for all offsets.
    Raises ValueError without one where it is required, and for a key after the query in a causal model.
    Source: Elhage et al. 2021, the QK circuit; with rotary positions Su et al. 2021, equation 16.
    """
    if offset is not None and offset < 0 and model.config.is_causal:
        raise ValueError(
            f"offset is {offset}, a key after the query, which a causal model does not see: give q_pos - k_pos, 0 or more"
        )
    queries, keys = W_Q(model, layer), W_K(model, layer)
    if with_norm:
        norm = block_of(model, layer).ln1
        queries, keys = read_through(norm, queries), read_through(norm, keys)
    if model.rotary is not None:
        if offset is None:
            raise ValueError(
                "this model has rotary positions, so a head has one QK circuit for each offset: give the offset, q_pos - k_pos"
            )
        queries, keys = _turned(model, queries, k_pos + offset), _turned(model, keys, k_pos)
    return _of_head(model, FactoredMatrix(queries, keys.mT), head)


def ov_circuit(model: Transformer, layer: int, head: int | None = None, *, with_norm: bool = False) -> FactoredMatrix:
    """Return `W_V W_O`, d_model x d_model, of a head or of all: what a head writes where it looks at one position alone.

    It acts on what attention reads, or with `with_norm` on the residual stream over ln1's scale; biases are left out.
    Source: Elhage et al. 2021, the OV circuit.
    """
    values = W_V(model, layer)
    if with_norm:
        values = read_through(block_of(model, layer).ln1, values)
    return _of_head(model, FactoredMatrix(values, W_O(model, layer)), head)


def full_qk(
    model: Transformer,
    layer: int,
    head: int | None = None,
    *,
    offset: int | None = None,
    k_pos: int = 0,
    with_norm: bool = False,
) -> FactoredMatrix:
    """Return `W_E W_QK W_E^T`, d_vocab x d_vocab: how much a head at one token wants to look at another, by their embeddings.

    Arguments are those of `qk_circuit`. Source: Elhage et al. 2021, the full QK circuit.
    """
    qk = qk_circuit(model, layer, head, offset=offset, k_pos=k_pos, with_norm=with_norm)
    return FactoredMatrix(W_E(model) @ qk.A, qk.B @ W_E(model).T)


def full_ov(model: Transformer, layer: int, head: int | None = None, *, with_norm: bool = False) -> FactoredMatrix:
    """Return `W_E W_OV W_U`, d_vocab x d_vocab_out: what looking at a token does to the logits, by its embedding.

    With `with_norm` the linear parts of ln1 and of ln_final are in it. Source: Elhage et al. 2021, the full OV circuit.
    """
    ov = ov_circuit(model, layer, head, with_norm=with_norm)
    unembed = read_through(model.unembed.ln_final, W_U(model)) if with_norm else W_U(model)
    return FactoredMatrix(W_E(model) @ ov.A, ov.B @ unembed)


@torch.no_grad()
def copying_scores(model: Transformer) -> Float[Tensor, "layer head"]:
    """Return for every head the sum of the eigenvalues of its full OV circuit over the sum of their sizes, from -1 to 1.

    A head near 1 makes the tokens it looks at likelier, one near -1 less likely. The linear parts of the norms are in the circuit; its
    eigenvalues are those of the d_head x d_head matrix `W_O W_U W_E W_V`, with what `W_U` adds to all logits alike, which changes no
    probability, taken off. A head of which nothing is left but rounding scores 0.
    Source: Elhage et al. 2021, "Detecting Copying Behavior". Raises ValueError when logits are not one for each token.
    """
    config = model.config
    if config.d_vocab_out != config.d_vocab:
        raise ValueError(
            f"the model has {config.d_vocab_out} logits for {config.d_vocab} tokens, so it has no eigenvalues of copying"
        )
    unembed = read_through(model.unembed.ln_final, W_U(model))
    through = (unembed - unembed.mean(dim=1, keepdim=True)) @ W_E(model)  # d_model d_model
    scores = []
    for layer in range(config.n_layers):
        ov = ov_circuit(model, layer, with_norm=True)
        values = through @ ov.A  # head d_model d_head
        eigenvalues = torch.linalg.eigvals((ov.B @ values).double())  # head d_head
        total, size = eigenvalues.real.sum(-1), eigenvalues.abs().sum(-1)
        rounding = config.d_head * torch.finfo(values.dtype).eps * torch.linalg.matrix_norm(ov.B) * torch.linalg.matrix_norm(values)
        scores.append(torch.where(size > rounding, total / size, torch.zeros_like(total)))
    return torch.stack(scores) if scores else torch.zeros(0, config.n_heads, dtype=torch.float64)


def _turned(model: Transformer, W: Float[Tensor, "head d_model d_head"], position: int) -> Float[Tensor, "head d_model d_head"]:
    """Turn what a matrix makes as the model turns queries and keys at a position; turning is linear, so rows turn one by one."""
    assert model.rotary is not None
    rotation = model.rotary.rotation(torch.tensor([position], device=W.device))
    turned = rotation.turn(rearrange(W, "head d_model d_head -> head 1 d_model d_head"))  # batch pos head d_head, to `turn`
    return rearrange(turned, "head 1 d_model d_head -> head d_model d_head")


def _of_head(model: Transformer, circuits: FactoredMatrix, head: int | None) -> FactoredMatrix:
    n_heads = model.config.n_heads
    if head is not None and not -n_heads <= head < n_heads:
        raise ValueError(f"the model has no head {head}: give 0 to {n_heads - 1}, or none for all")
    return circuits if head is None else circuits[head]
