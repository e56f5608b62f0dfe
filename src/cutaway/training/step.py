"""One step of training: the loss, its gradients, and the optimizers' move."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutaway.data import Batch
from cutaway.model import Transformer
from cutaway.model.norms import at_least_float32
from cutaway.ranks import Ranks
from cutaway.runtime import compile_obstacle, pick_dtype
from cutaway.training.config import TrainConfig
from cutaway.training.parallel import Parallel

__all__ = ["UNJUDGED", "next_token_loss", "StepResult", "read_results", "TrainStep"]

UNJUDGED = -100
"""A target that does not count in the loss, as `cross_entropy` has it."""

_SHORT = 256  # positions
_ALL_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)


def next_token_loss(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats, its matrix products computed in `dtype`, all that adds up in float32."""
    with torch.autocast(tokens.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(tokens)
    return F.cross_entropy(at_least_float32(logits).flatten(0, -2), targets.flatten())


class StepResult(NamedTuple):
    """What a step found, on the device, which may still be computing it.

    The loss in nats is that of this process's rows, the norm before clipping that of the gradient of all.
    """

    loss: Float[Tensor, ""]
    grad_norm: Float[Tensor, ""]


def read_results(results: Sequence[StepResult], ranks: Ranks) -> list[tuple[float, float]]:
    """Wait for what steps found, and return the loss of all processes and the norm for each; all must ask."""
    if not results:
        return []
    losses = ranks.total(*torch.stack([result.loss for result in results]).tolist())
    norms = torch.stack([result.grad_norm for result in results]).tolist()
    return [(loss / ranks.n, norm) for loss, norm in zip(losses, norms, strict=True)]


class TrainStep:
    """Takes steps with one model and its optimizers; compiled if `config` asks for it, as no hooks are at work here.

    Where nothing can be compiled it says so once, by `tell`, and steps as it is. Many processes step together, each with its rows.
    """

    def __init__(
        self,
        model: Transformer,
        optimizers: Sequence[torch.optim.Optimizer],
        config: TrainConfig,
        *,
        parallel: Parallel | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._model, self._optimizers, self._tell = model, optimizers, tell
        self._parallel = parallel or Parallel()
        self._max_grad_norm = config.max_grad_norm or float("inf")
        device = model.embed.W_E.device
        self._dtype = getattr(torch, pick_dtype(config.dtype, device))
        # For windows this short on a CPU, loops over the pattern are faster than the fused kernel's backward pass.
        self._kernels = [SDPBackend.MATH] if device.type == "cpu" and config.window <= _SHORT else list(_ALL_KERNELS)
        self._loss: Callable[..., Tensor] = next_token_loss
        self._is_compiled = False
        obstacle = compile_obstacle(device) if config.compile else None
        if obstacle:
            tell(f"{obstacle}, so training runs as it is, somewhat slower")
        elif config.compile:
            self._loss, self._is_compiled = self._parallel.compiled(next_token_loss, model), True
        self._averaged_loss_of = self._parallel.averaging(self._loss_of, model)

    def __call__(self, batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """Average the gradients of `batches` over all processes, clip them, and step; nothing waits here for a GPU."""
        weight = 1 / len(batches)
        with self._parallel.holding_back(self._model):
            losses = [self._add_gradients(batch, weight=weight) for batch in batches[:-1]]
        losses.append(self._add_gradients(batches[-1], weight=weight))
        grad_norm = self._parallel.whole_tensor(nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return StepResult(torch.stack(losses).sum(), grad_norm)

    def _add_gradients(self, batch: Batch, *, weight: float) -> Tensor:
        loss = self._averaged_loss_of(batch) * weight
        loss.backward()
        return loss.detach()

    def _loss_of(self, batch: Batch) -> Tensor:
        if not self._is_compiled:
            with sdpa_kernel(self._kernels):
                return next_token_loss(self._model, *batch, dtype=self._dtype)
        from torch._dynamo.exc import TorchDynamoException  # loaded with the compiler alone

        try:
            with sdpa_kernel(self._kernels):
                return self._loss(self._model, *batch, dtype=self._dtype)
        except TorchDynamoException as error:
            obstacle = f"the training step could not be compiled ({type(error).__name__})"
            if self._parallel.ranks.n > 1:  # the others may be in the midst of theirs
                raise RuntimeError(f"{obstacle}: give --no-compile") from error
            self._tell(f"{obstacle}, so it runs as it is")
            self._is_compiled = False
            return self._loss_of(batch)
