"""The model run as far as it must be: up to the last activation that is wanted, and no further."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.hooks import Hook, Hooks
from cutaway.interp.sites import hook_order
from cutaway.interp.store.plan import StorePlan, Windows
from cutaway.interp.store.stream import TokenStream
from cutaway.model import Transformer

__all__ = ["run_until", "read_windows", "allocated", "record_batch"]


class _EnoughError(Exception):
    """Ends a run at the last activation that is wanted."""


def run_until(model: Transformer, tokens: Int[Tensor, "batch pos"], hooks: Mapping[str, Hook]) -> None:
    """Run the model until each of these activations has been seen: what comes after the last is not computed."""
    order = hook_order(model.config)
    last = max(hooks, key=order.__getitem__)

    def see_last(x: Tensor, name: str) -> None:
        hooks[last](x, name)
        raise _EnoughError

    try:
        model(tokens, hooks=Hooks({**hooks, last: see_last}))
    except _EnoughError:
        return


def read_windows(stream: TokenStream, windows: Windows, device: torch.device) -> Int[Tensor, "batch pos"]:
    """Return the tokens of a batch."""
    start, n_windows, n_pos = windows
    ids = stream.read(start, start + n_windows * n_pos)
    return torch.from_numpy(ids).long().to(device).view(n_windows, n_pos)


def allocated(plan: StorePlan, n_rows: int, device: torch.device) -> dict[str, Tensor]:
    """Return memory for so many rows of each activation of a model on this device."""
    pin = device.type == "cuda"  # into such memory the copy runs beside the computation
    return {name: torch.empty(n_rows, *shape, dtype=plan.dtype, pin_memory=pin) for name, shape in plan.shapes.items()}


def record_batch(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    plan: StorePlan,
    rows: Mapping[str, Float[Tensor, "row ..."]],
    start: int,
) -> None:
    """Run a batch and put its activations into `rows` from row `start` on, in the dtype that those have."""
    n_windows, n_pos = tokens.shape

    def take(x: Tensor, name: str) -> None:
        if name == "pos_embed":  # the same for every window, and computed once
            x = x.expand(n_windows, *x.shape[-2:])
        kept = x[:, plan.skip_first :].to(plan.dtype)
        n_kept = n_windows * (n_pos - plan.skip_first)
        place = rows[name][start : start + n_kept]
        place.view(n_windows, -1, *place.shape[1:]).copy_(kept, non_blocking=True)

    run_until(model, tokens, dict.fromkeys(plan.names, take))
