"""What moves the weights: AdamW, or Muon for the matrices of the blocks and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from cutaway.model import Transformer
from cutaway.runtime import pick_dtype
from cutaway.training.config import TrainConfig
from cutaway.training.muon import Muon

__all__ = ["make_optimizers"]


def make_optimizers(model: Transformer, config: TrainConfig) -> tuple[torch.optim.Optimizer, ...]:
    """Return AdamW for all weights, or after Muon for those that it is not for: embeddings, unembedding, norms and biases.

    Matrices and embeddings decay, biases and norms do not (Loshchilov & Hutter 2019).
    """
    turned = [weight for weight in model.blocks.parameters() if weight.ndim == 2] if config.optimizer == "muon" else []
    adamw = _adamw(set(turned), model, config)
    if not turned:
        return (adamw,)
    is_wide = pick_dtype(config.dtype, model.embed.W_E.device) == "float32"
    muon = Muon(
        turned,
        lr=config.learning_rate,
        momentum=config.beta1,
        weight_decay=config.weight_decay,
        dtype=None if is_wide else torch.bfloat16,
    )
    return muon, adamw


def _adamw(others: set[nn.Parameter], model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    weights = [weight for weight in model.parameters() if weight not in others]
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
