"""`cutaway bench`: how fast this machine is, beside what it could do at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from cutaway.cli.errors import UsageError
from cutaway.report import print_json, stderr_console, stdout_console, table

if TYPE_CHECKING:
    import torch

    from cutaway.config import ModelConfig

__all__ = ["bench"]

_PRESET = "gpt2"

_Row = Mapping[str, float | None]


def bench(
    what: Literal["decode", "forward", "limits"] = "decode",
    /,
    *,
    preset: str = _PRESET,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Measure random weights of a shape on this machine, beside the machine's own limits.

    decode shows, for texts that grow, how much the key and value cache saves, beside the rate at which the weights can be read.
    forward holds a pass over 4 x 64 tokens against its matrix products alone. limits shows what the machine can do at most.

    Args:
        what: what to measure
        preset NAME: the model's shape; limits need none
        dtype: what it computes in
        compile: with decode, also measure the compiled step
        device NAME: auto, cpu, cuda or mps
        json: print JSON

    Examples:
        cutaway bench decode --preset shakespeare-char
        cutaway bench decode --compile --dtype bfloat16
        cutaway bench forward

    In Python:
        from cutaway import ModelConfig, measure
        measure.decode_rates(ModelConfig.preset("gpt2"))
    """
    if compile and what != "decode":
        raise UsageError(f"--compile is for `cutaway bench decode`; {what} knows no compiled step")
    if what == "limits" and preset != _PRESET:
        raise UsageError("`cutaway bench limits` measures the machine, and no model: leave out --preset")
    import torch

    from cutaway.config import ModelConfig
    from cutaway.runtime import describe_device, pick_device

    config, place = ModelConfig.preset(preset), pick_device(device)
    measured = ([] if what == "limits" else [preset]) + [dtype, describe_device(place)]
    stderr_console().print(", ".join(measured), style="dim")
    measurements = {"decode": _decode, "forward": _forward, "limits": _limits}
    rows = measurements[what](config, getattr(torch, dtype), place, compile)
    print_json(rows) if json else _show(rows)


def _decode(config: ModelConfig, dtype: torch.dtype, device: torch.device, compile: bool) -> list[_Row]:
    from cutaway import measure

    rows: list[_Row] = []
    for rate in measure.decode_rates(config, dtype=dtype, device=device, compile=compile):
        row: dict[str, float | None] = {
            "length": rate.length,
            "tokens/s without cache": rate.uncached_per_s,
            "with cache": rate.cached_per_s,
            "times faster": rate.speed_up,
        }
        if compile:
            row["compiled"] = rate.compiled_per_s
        rows.append({**row, "memory's limit": rate.limit_per_s})
    return rows


def _forward(config: ModelConfig, dtype: torch.dtype, device: torch.device, compile: bool) -> list[_Row]:  # noqa: ARG001
    from cutaway import measure

    forward_s, products_s = measure.forward_seconds(config, batch=4, n_pos=64, dtype=dtype, device=device)
    return [{"forward, s": forward_s, "matrix products, s": products_s, "times the products": forward_s / products_s}]


def _limits(config: ModelConfig, dtype: torch.dtype, device: torch.device, compile: bool) -> list[_Row]:  # noqa: ARG001
    from cutaway import measure

    limits = measure.measure_limits(dtype, device=device)
    return [{"GFLOP/s, matrix products": limits.gflops_per_s, "GB/s, memory read": limits.read_gb_per_s}]


def _show(rows: list[_Row]) -> None:
    grid = table(*rows[0], right=list(rows[0]))
    for row in rows:
        grid.add_row(*(_written(value) for value in row.values()))
    stdout_console().print(grid)


def _written(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
