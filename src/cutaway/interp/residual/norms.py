"""A norm applied to vectors that add up to what it read, or to a stream it never read."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored import block_of
from cutaway.interp.residual.stack import Record, Stack, at_positions, kept_positions
from cutaway.model import LayerNorm, NoNorm, RMSNorm, Transformer

__all__ = ["Scale", "Reader", "apply_ln", "recorded_scale", "norm_of"]

Scale = Literal["recorded", "own"]
"""What a norm divides by: what it divided by in the run, or what each vector alone would make it divide by."""
Reader = Literal["attn", "mlp"]
"""What of a layer reads the stream through its own norm."""


def apply_ln(
    record: Record, stack: Stack, layer: int | None = None, *, scale: Scale = "recorded", before: Reader = "attn"
) -> Stack:
    """Return what a norm makes of each vector: the last one, or that of a layer's attention or MLP.

    - Scale. `"recorded"` divides all by the scale of this very norm in the run, so that what adds up to the stream adds up to what
      the norm gave: for parts. `"own"` divides each vector by its own, as if it were the stream: the logit lens of an earlier
      layer.
    - LayerNorm takes each vector's own mean off, which is linear; RMSNorm does not.
    - The gain multiplies each. The bias is added to each stream; parts get it once, as one more component; some of the parts do
      not.

    In models without norms the vectors stay as they are. Raises KeyError where the scale was not recorded, ValueError for a norm
    that is not there and for weights that changed since the run. Source: Ba et al. 2016, equation 3; Elhage et al. 2021, "Handling
    Layer Normalization".
    """
    norm = norm_of(record.model, layer, before)
    if isinstance(norm, NoNorm):
        return stack
    record.check_weights()
    x = stack.values - stack.values.mean(dim=-1, keepdim=True) if isinstance(norm, LayerNorm) else stack.values
    if scale == "recorded":
        divisor = recorded_scale(record, layer, before=before, positions=kept_positions(record, stack.positions))
    else:
        divisor = (x.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    normed, labels = x / divisor * norm.weight, stack.labels
    if norm.bias is not None and (stack.kind == "streams" or scale == "own"):
        normed = normed + norm.bias
    elif norm.bias is not None and stack.kind == "parts":
        normed = torch.cat([normed, norm.bias.expand_as(normed[:1])])
        labels = (*labels, "norm bias")
    return Stack(normed, labels, kind=stack.kind, positions=stack.positions)


def recorded_scale(
    record: Record, layer: int | None = None, *, before: Reader = "attn", positions: tuple[int, ...]
) -> Float[Tensor, "batch pos 1"]:
    """Return what a norm divided by in the run; raises KeyError where that was not recorded."""
    norm_of(record.model, layer, before)
    name = "ln_final.scale" if layer is None else ("ln1.scale" if before == "attn" else "ln2.scale", layer)
    return at_positions(record, record[name], positions)


def norm_of(model: Transformer, layer: int | None, before: Reader = "attn") -> LayerNorm | RMSNorm | NoNorm:
    """Return the last norm, or that of a layer; raises ValueError where a layer's MLP has none of its own."""
    if layer is None:
        return model.unembed.ln_final
    block = block_of(model, layer)
    if before == "attn":
        return block.ln1
    if block.ln2 is None:
        why = "its blocks have no MLP" if model.config.d_mlp == 0 else "attention and MLP read the same one: use before='attn'"
        raise ValueError(f"this model has no norm of the MLP alone: {why}")
    return block.ln2
