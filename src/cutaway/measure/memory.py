"""The most memory that tensors take while a function runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


def peak_bytes(function: Callable[[], object], *, device: torch.device | str = "cpu", known: Iterable[Tensor] = ()) -> int:
    """Return the most bytes that tensors made by `function` held at once; those of `known`, as the weights, do not count.

    On a CUDA device its allocator counts. Elsewhere every operation's results are followed until they are freed; what a kernel takes
    for itself while it runs is not seen there.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    with _Following(known) as following:
        function()
    return int(following.peak)  # its class is not typed


class _Following(TorchDispatchMode):
    """Adds up the storages that operations make, each until it is freed."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self._now = 0, 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, object] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made: Any = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        if key in self._known or key in self._alive:  # a view of something that is followed, or not to be
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._let_go(key, n_bytes))
        self._now += n_bytes
        self.peak = max(self.peak, self._now)

    def _let_go(self, key: int, n_bytes: int) -> None:
        del self._alive[key]
        self._now -= n_bytes
