"""How a model is spread over the processes that train it: whole in each, or shared out between them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.data import Batch
from cutaway.model import Transformer
from cutaway.ranks import Ranks
from cutaway.training.config import TrainConfig
from cutaway.weights import assemble

__all__ = ["Parallel", "Replicated", "Sharded", "make_parallel", "is_sharded", "weights_of"]

_LossOf = Callable[[Batch], Tensor]


class Parallel:
    """One process with the whole model; its subclasses say what many do differently."""

    validation_dtype = torch.float32
    """What matrix products are computed in for the validation loss."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()

    def place(self, model: Transformer, device: torch.device) -> Transformer:
        """Put a model, which all processes have alike, where it learns."""
        return model.to(device).train()

    def averaging(self, loss_of: _LossOf, model: Transformer) -> _LossOf:  # noqa: ARG002
        """Return the loss so that the gradients it leaves are the mean of all processes'."""
        return loss_of

    def holding_back(self, model: Transformer) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return a context in which gradients add up here and nothing is sent."""
        return nullcontext()

    def compiled(self, loss: Callable[..., Tensor], model: Transformer) -> Callable[..., Tensor]:  # noqa: ARG002
        """Return the loss so that it is compiled when it is first called."""
        return torch.compile(loss)

    def whole_tensor(self, tensor: Tensor) -> Tensor:
        """Return a tensor of which each process may have a part."""
        return tensor

    def whole(self, model: Transformer) -> Transformer:
        """Return the model with every weight whole, for the first process to look at; all must ask."""
        return model


class _Loss(nn.Module):
    """A model's loss as a module, which is what DistributedDataParallel takes."""

    def __init__(self, model: Transformer, loss_of: _LossOf) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self._loss_of((tokens, targets))


class Replicated(Parallel):
    """The whole model in every process, by torch's DistributedDataParallel (Li et al. 2020)."""

    def averaging(self, loss_of: _LossOf, model: Transformer) -> _LossOf:
        """Return the loss, whose backward pass sends gradients while it computes the next."""
        device = model.embed.W_E.device
        device_ids = [device] if device.type == "cuda" else None
        loss = _Loss(model, loss_of)
        self._replica = nn.parallel.DistributedDataParallel(loss, device_ids=device_ids, gradient_as_bucket_view=True)
        return lambda batch: self._replica(*batch)

    def holding_back(self, model: Transformer) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return a context in which gradients add up here and nothing is sent."""
        return self._replica.no_sync()


class Sharded(Parallel):
    """Every process keeps a part of each weight, its gradient and its averages, by torch's `fully_shard` (Zhao et al. 2023).

    A block's matrices are gathered in the dtype that they are multiplied in, its norms, the embedding and the unembedding in float32,
    as autocast would use them: what is computed is what `Replicated` computes. Gradients are shared out after every batch, also of
    several to a step: held back, they would be whole in each process.
    """

    def __init__(self, ranks: Ranks, *, dtype: torch.dtype) -> None:
        super().__init__(ranks)
        self.validation_dtype = dtype  # no other is gathered

    def place(self, model: Transformer, device: torch.device) -> Transformer:
        """Share a model out, block by block, so that no device ever holds the whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (self.ranks.n,))
        wide = MixedPrecisionPolicy(cast_forward_inputs=False)
        narrow = wide
        if self.validation_dtype != torch.float32:
            narrow = MixedPrecisionPolicy(param_dtype=self.validation_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        norms = [
            part
            for block in model.blocks
            for part in (block.ln1, block.ln2)
            if isinstance(part, nn.Module) and list(part.parameters())
        ]
        if norms:  # few numbers: all layers' are gathered at once, and kept until the backward pass
            fully_shard(norms, mesh=mesh, mp_policy=wide, reshard_after_forward=False)
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=narrow)
        fully_shard(model, mesh=mesh, mp_policy=wide)
        return model.train()

    def compiled(self, loss: Callable[..., Tensor], model: Transformer) -> Callable[..., Tensor]:
        """Return the loss after having each block compiled: between blocks weights are gathered."""
        for block in model.blocks:
            block.compile()
        return loss

    def whole_tensor(self, tensor: Tensor) -> Tensor:
        """Return a tensor of which each process may have a part; all must ask."""
        sharded: Any = tensor.detach()  # a DTensor
        whole: Tensor = sharded.full_tensor()
        return whole

    def whole(self, model: Transformer) -> Transformer:
        """Return the model with every weight whole in the first process, in the others the model as it is; all must ask."""
        gathered = ((name, self.whole_tensor(weight)) for name, weight in weights_of(model).items())
        if self.ranks.is_first:
            return assemble(
                model.config, gathered, source="the model in training", dtype="as stored", device=model.embed.W_E.device
            )
        for _ in gathered:  # taking part is all
            pass
        return model


def make_parallel(config: TrainConfig, ranks: Ranks, dtype: torch.dtype) -> Parallel:
    """Return how a recipe spreads its model over processes; one process alone has it whole."""
    if ranks.n == 1:
        return Parallel(ranks)
    return Sharded(ranks, dtype=dtype) if config.parallel == "fsdp2" else Replicated(ranks)


def is_sharded(model: Transformer) -> bool:
    """Return whether this process has a part of each weight alone."""
    return hasattr(model, "reshard")


def weights_of(model: Transformer) -> dict[str, Tensor]:
    """Return the weights that the optimizer moves by their names, a tied unembedding once: of a sharded model, this process's parts."""
    if is_sharded(model):
        for module in model.modules():
            if hasattr(module, "reshard"):  # what a forward pass gathered, and no backward pass let go
                sharded: Any = module
                sharded.reshard()
    return dict(model.named_parameters())
