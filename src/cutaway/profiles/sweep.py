"""Patching sweeps, beside TransformerLens's own and one whole forward pass for each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp import edits, metrics
from cutaway.interp.running import run_with_cache
from cutaway.interp.sweep import plan_sweep
from cutaway.measure import medians_in_turn, timed
from cutaway.model import Transformer
from cutaway.profiles.bench import Bench, Request, name_of
from cutaway.profiles.comparison import Comparison

__all__ = ["compare_sweeps", "compare_sweep", "CORRECT", "WRONG"]

CORRECT, WRONG = 3, 7
"""The tokens whose logits are compared."""

_KINDS: dict[Literal["grid", "heads"], str] = {"grid": "resid_pre at every layer and position", "heads": "every head"}

_NAIVE = "one pass a cell"

_Timer = Callable[[], tuple[float, Sequence[float]]]
"""A sweep of another program's: seconds, and the metric of each cell."""


@torch.no_grad()
def compare_sweeps(bench: Bench, request: Request) -> list[Comparison]:
    """Return how long it takes to patch one random text into another of 24 tokens: each state of the stream, and each head."""
    preset, config = request.config()
    dtype, n_pos = request.dtype or torch.float32, request.length or min(24, config.n_ctx)
    clean, corrupted = (bench.tokens(config, 1, n_pos, seed=seed) for seed in (0, 1))
    model = bench.model(config, name=preset, dtype=dtype, n_copies=2)
    lens = bench.transformer_lens(model)
    _, cache = run_with_cache(model, clean, ["blocks.*.resid_pre", "blocks.*.attn.z"])
    layers, heads, positions = range(config.n_layers), range(config.n_heads), range(n_pos)
    cells = {
        "grid": [[edits.patch(f"blocks.{layer}.resid_pre", cache, pos=pos)] for layer in layers for pos in positions],
        "heads": [[edits.patch(f"blocks.{layer}.attn.z", cache, head=head)] for layer in layers for head in heads],
    }

    def theirs(kind: str) -> dict[str, _Timer]:
        tokens = {"clean": clean, "corrupted": corrupted}
        return {} if lens is None else {lens.name: lambda: lens.sweep(kind, **tokens, correct=CORRECT, wrong=WRONG)}

    return [
        compare_sweep(bench, f"{preset}, {what}, {n_pos} tokens, {name_of(dtype)}", model, corrupted, cells[kind], theirs(kind))
        for kind, what in _KINDS.items()
    ]


def compare_sweep(
    bench: Bench,
    case: str,
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    cells: Sequence[Sequence[edits.Edit]],
    peers: dict[str, _Timer] | None = None,
) -> Comparison:
    """Return how long a sweep takes beside the peers' or, where there is none, beside one whole pass for each cell, as it is usual.

    Raises RuntimeError where the scores are not those of whole runs, or not the peers'.
    """
    metric, scores = metrics.logit_diff(CORRECT, WRONG), dict[str, Tensor]()
    plan = plan_sweep(model, tokens, cells, metric)

    def ours() -> None:
        scores["cutaway"] = plan_sweep(model, tokens, cells, metric).run().cpu()

    def theirs(name: str, timer: _Timer) -> float:
        time_s, found = timer()
        scores[name] = torch.tensor(found, dtype=torch.float64).reshape(len(cells), -1)
        return time_s

    def naively() -> None:
        scores[_NAIVE] = torch.stack([plan.naive(cell) for cell in range(len(cells))]).cpu()

    timers = {"cutaway": timed(ours)} | ({} if peers else {_NAIVE: timed(naively)})
    timers |= {name: partial(theirs, name, timer) for name, timer in (peers or {}).items()}
    times = medians_in_turn(timers, n_rounds=bench.rounds(2), n_warmups=0)
    dtype, scale = model.embed.W_E.dtype, float(model(tokens).abs().max())
    agreement = {
        name: bench.check_agreement(name, scores["cutaway"], found, dtype=dtype, scale=scale)
        for name, found in scores.items()
        if name != "cutaway"
    }
    rate = bench.limits(dtype).gflops_per_s
    return Comparison(
        work="sweep",
        case=f"{case}, {len(cells):,} cells",
        length=tokens.shape[1],
        unit="cells",
        n_units=len(cells) * len(tokens),
        ours={name: times[name] for name in ("cutaway", _NAIVE) if name in times},
        peers={name: times[name] for name in peers or {}},
        limit=f"the {plan.flops / 1e9:.3g} GFLOP that it cannot do without at the {rate:,.0f} GFLOP/s of square products",
        limit_s=plan.flops / rate / 1e9,
        flops=plan.flops,
        agreement=agreement,
    )
