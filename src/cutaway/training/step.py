"""One step of training: the loss, its gradients, and AdamW's move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from cutaway.model import Transformer
from cutaway.training.config import TrainConfig

__all__ = ["next_token_loss", "TrainStep"]


def next_token_loss(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats, computed in `dtype` with float32 weights behind it and a float32 softmax."""
    if dtype == torch.float32:
        logits = model(tokens)
    else:
        logits = functional_call(model, {name: weight.to(dtype) for name, weight in model.named_parameters()}, (tokens,))
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


class TrainStep:
    """Takes steps with one model and its optimizer; compiled if `config` asks for it, as no hooks are at work here."""

    def __init__(self, model: Transformer, optimizer: torch.optim.AdamW, config: TrainConfig) -> None:
        self._model, self._optimizer = model, optimizer
        self._max_grad_norm = config.max_grad_norm or float("inf")
        self._dtype = getattr(torch, config.dtype)
        self._loss = torch.compile(next_token_loss) if config.compile else next_token_loss

    def __call__(self, batches: Sequence[tuple[Tensor, Tensor]], *, learning_rate: float) -> tuple[float, float]:
        """Average the gradients of `batches`, clip them, step; return the loss in nats and the norm before clipping."""
        loss = 0.0
        for tokens, targets in batches:
            batch_loss = self._loss(self._model, tokens, targets, dtype=self._dtype) / len(batches)
            batch_loss.backward()
            loss += batch_loss.item()
        grad_norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss, grad_norm.item()
