"""Decoding one row at the speed of the memory: one compiled step of fixed shapes.

With one new token every weight is read for a single multiplication, so reading the weights is what takes the time. On a CPU torch's own
matrix-vector product reaches less than half of the memory's rate; written as a sum of products and compiled, it becomes a plain loop
that reaches nearly all of it. The model is not changed: while it is traced, a mode puts these forms in the place of two functions.

On a GPU starting some hundred kernels takes longer than they do. There the step is recorded as a CUDA graph and started as one (torch's
mode "reduce-overhead"): its shapes are fixed, and it writes keys and values into slots whose addresses are told to stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway.generation.cached import CachedDecoder
from cutaway.model import KVCache, Transformer, causal_mask
from cutaway.runtime import compile_obstacle

__all__ = ["CompiledDecoder"]

_BUCKETS = tuple(128 * 2**power for power in range(11))
"""How many slots a step attends to: the least that holds the text, so that few shapes are compiled and short texts are fast."""

_MOST_GRAPHS = 128
"""One for each bucket and shape of model in a process; torch would refuse the ninth."""


class CompiledDecoder(CachedDecoder):
    """A CachedDecoder of one row whose steps are compiled; the prompt, and what slides past the context, is read as there.

    Where nothing can be compiled it says so once, by `tell`, and goes on as a CachedDecoder. Raises ValueError for several prompts.
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        tell: Callable[[str], None],
    ) -> None:
        if len(prompts) != 1:
            raise ValueError(f"compiled decoding takes one prompt at a time, not {len(prompts)}")
        super().__init__(model, prompts, max_new_tokens=max_new_tokens, n_slots=model.config.n_ctx, tell=tell)
        obstacle = compile_obstacle(self._device)
        self._is_compiled = obstacle is None
        self._slots: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        if obstacle:
            tell(f"{obstacle}, so decoding runs as it is")

    def append(self, tokens: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
        """Add one token and return the logits after it."""
        position = len(self.rows[0])
        if not self._is_compiled or position >= self._kv.n_slots:
            return super().append(tokens)
        from torch._dynamo import exc  # loaded with the compiler alone

        bucket = next((size for size in _BUCKETS if size > position), self._kv.n_slots)
        k, v = self._first_slots(min(bucket, self._kv.n_slots))
        new, positions = torch.tensor([tokens], device=self._device), torch.tensor([position], device=self._device)
        try:
            if self._device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            logits = _compiled_step(self._device.type)(self._model, new, positions, k, v)
        except (exc.TorchDynamoException, getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException)) as error:
            self._is_compiled = False
            self._tell(f"the decoding step could not be compiled ({type(error).__name__}), so it runs as it is")
            return super().append(tokens)
        self.rows[0].append(tokens[0])
        self._kv.advance(1)
        return logits[:, -1].clone()  # a CUDA graph writes those of the next token to the same place

    def _first_slots(self, n_slots: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the first slots of each layer, the same tensors at each step; a CUDA graph neither copies nor moves them."""
        if n_slots not in self._slots:
            k, v = self._kv.first_slots(n_slots)
            for slots in (*k, *v):
                torch._dynamo.mark_static_address(slots, guard=False)
            self._slots = {n_slots: (k, v)}
        return self._slots[n_slots]

    def _keep(self, places: list[int], *, n_read: int) -> None:
        super()._keep(places, n_read=n_read)
        self._slots = {}  # the cache has other memory now


@cache
def _compiled_step(device: str) -> Callable[..., Tensor]:
    from torch._dynamo import config

    mode = "reduce-overhead" if device == "cuda" else None
    step: Callable[..., Tensor] = torch.compile(_step, dynamic=False, fullgraph=True, mode=mode)
    return config.patch(cache_size_limit=_MOST_GRAPHS)(step)  # type: ignore[no-any-return]


def _step(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, " pos"],
    k: list[Float[Tensor, "batch kv_head slot d_head"]],
    v: list[Float[Tensor, "batch kv_head slot d_head"]],
) -> Float[Tensor, "batch pos d_vocab"]:
    with _SumsOfProducts() if tokens.device.type == "cpu" else nullcontext():
        resid = model.run_blocks(model.embed(tokens, positions), positions=positions, kv=_FixedSlots(k, v))
        logits: Tensor = model.unembed(resid)
    return logits


class _FixedSlots(KVCache):
    """The slots of another cache, all handed to attention whatever they hold: the mask tells which count."""

    def __init__(self, k: list[Tensor], v: list[Tensor]) -> None:
        self.k, self.v, self.n_slots = k, v, k[0].shape[2]

    def length(self, layer: int = 0) -> int:  # noqa: ARG002
        return 0

    def extend(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k[layer].index_copy_(2, positions, k)
        self.v[layer].index_copy_(2, positions, v)
        return self.k[layer], self.v[layer]

    def mask(self, positions: Tensor, layer: int = 0) -> Tensor:  # noqa: ARG002
        return causal_mask(positions, torch.arange(self.n_slots, device=positions.device))


class _SumsOfProducts(TorchFunctionMode):
    """Writes linear layers and attention of one position as sums of products."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.linear:
            return _linear(*args, **(kwargs or {}))
        if function is F.scaled_dot_product_attention:
            return _attention(*args[:4])
        returned: Any = function(*args, **(kwargs or {}))
        return returned


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # In two halves that one loop computes side by side: reading at two places at once takes more of the memory's rate.
    wide = x.unsqueeze(-2).float() if x.dtype != torch.float64 else x.unsqueeze(-2)
    halves = [(half.to(wide.dtype) * wide).sum(dim=-1) for half in weight.tensor_split(2)]
    out = torch.cat(halves, dim=-1).to(x.dtype)
    return out if bias is None else out + bias


def _attention(
    q: Float[Tensor, "batch head 1 d_head"],
    k: Float[Tensor, "batch kv_head slot d_head"],
    v: Float[Tensor, "batch kv_head slot d_head"],
    mask: Bool[Tensor, "1 slot"],
) -> Float[Tensor, "batch head 1 d_head"]:
    grouped = q.reshape(q.shape[0], k.shape[1], -1, 1, q.shape[-1])  # batch kv_head group 1 d_head
    scores = (grouped * k.unsqueeze(2)).sum(dim=-1, dtype=torch.float32) / math.sqrt(q.shape[-1])  # ... group slot
    pattern = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    z = (pattern.unsqueeze(-1) * v.unsqueeze(2)).sum(dim=-2, keepdim=True)  # batch kv_head group 1 d_head
    return z.reshape(q.shape).to(q.dtype)
