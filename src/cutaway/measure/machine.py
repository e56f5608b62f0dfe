"""What this machine can do at most: matrix products and memory reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.flops import product_flops_per_s
from cutaway.measure.timing import seconds
from cutaway.runtime import compile_obstacle

__all__ = ["Limits", "measure_limits"]


@dataclass(frozen=True)
class Limits:
    """The best rates seen, in GFLOP/s of square matrix products and GB/s of memory read once."""

    gflops_per_s: float
    read_gb_per_s: float


def measure_limits(dtype: torch.dtype = torch.float32, *, device: torch.device | str = "cpu") -> Limits:
    """Multiply two square matrices and add up some memory, several times; the best of each counts, as a limit should.

    On a CPU the memory is half a gigabyte; a GPU is not kept busy by so little.
    """
    device = torch.device(device)
    n_bytes = 2**29 if device.type == "cpu" else 2**32
    flops_per_s = product_flops_per_s(dtype, device, n_rounds=7)
    memory = torch.ones(n_bytes // dtype.itemsize, device=device, dtype=dtype)
    rows = memory.view(-1, 4096)
    reads: list[Callable[[], Tensor]] = [lambda: memory.sum(dtype=torch.float32)]
    if compile_obstacle(device) is None:  # a plain loop over the rows reads faster than torch's own sum
        add_up = torch.compile(lambda x: x.sum(dim=-1, dtype=torch.float32))
        reads.append(lambda: add_up(rows))
    read_s = min(seconds(_finishing(read), n_rounds=1) for read in reads for _ in range(7))
    return Limits(gflops_per_s=flops_per_s / 1e9, read_gb_per_s=memory.nbytes / read_s / 1e9)


def _finishing(function: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that returns when the device is done."""

    def finish() -> None:
        result = function()
        if result.device.type != "cpu":
            torch.accelerator.synchronize(result.device)

    return finish
