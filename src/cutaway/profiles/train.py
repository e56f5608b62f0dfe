"""Steps of training, beside nanoGPT's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from cutaway.data import Batch
from cutaway.flops import training_flops
from cutaway.measure import seconds_in_turn
from cutaway.model import Transformer
from cutaway.profiles.bench import Bench, Request, name_of
from cutaway.profiles.comparison import Comparison
from cutaway.runtime import compile_obstacle, pick_dtype
from cutaway.training import TrainConfig
from cutaway.training.optimizer import make_optimizers
from cutaway.training.step import TrainStep

__all__ = ["compare_training"]

_LONG_FLOPS = 40e9
"""Steps on a CPU are timed together until they take so many operations, at most ten."""


def compare_training(bench: Bench, request: Request) -> list[Comparison]:
    """Return how long a step takes beside nanoGPT's, as it is and compiled, on the same batches of random tokens.

    On a CPU it is nanoGPT's recipe for one, `shakespeare-char` with 12 x 64 tokens a step, on a GPU `gpt2` with 12 x 1,024, unless
    given; a larger model on a CPU has as few tokens. Both have the exact GELU, and on a GPU the vocabulary that nanoGPT pads to a
    multiple of 64.
    """
    preset, config = request.config("shakespeare-char" if bench.is_cpu else "gpt2")
    n_pos, batch = request.length or (min(64, config.n_ctx) if bench.is_cpu else config.n_ctx), request.batch or 12
    d_vocab = config.d_vocab if bench.is_cpu else 64 * math.ceil(config.d_vocab / 64)
    config = config.replace(act="gelu", n_ctx=n_pos, d_vocab=d_vocab) if config.act == "gelu_new" else config.replace(n_ctx=n_pos)
    recipe = TrainConfig(model=config, batch_size=batch, device=str(bench.device), compile=compile_obstacle(bench.device) is None)
    flops = batch * training_flops(config, n_pos)
    n_steps = max(1, min(10, round(_LONG_FLOPS / flops))) if bench.is_cpu else 10
    batches = [(bench.tokens(config, batch, n_pos, seed=i), bench.tokens(config, batch, n_pos, seed=i + 1)) for i in range(n_steps)]
    model = bench.model(config, name=preset, n_copies=4 * (1 + (bench.peers.nanogpt is not None))).train()
    theirs, agreement = _theirs(bench, model, recipe, batches)
    ours = _ours(bench, model, recipe, batches, None if request.dtype is None else name_of(request.dtype))
    times = seconds_in_turn({**ours, **theirs}, n_rounds=bench.rounds(7))
    times = {name: time_s / len(batches) for name, time_s in times.items()}
    dtype = request.dtype or getattr(torch, pick_dtype("auto", bench.device))
    rate = bench.limits(dtype).gflops_per_s
    return [
        Comparison(
            work="train",
            case=f"{preset}, {batch} x {n_pos} tokens a step",
            length=n_pos,
            unit="tokens",
            n_units=batch * n_pos,
            ours={name: times[name] for name in ours},
            peers={name: times[name] for name in theirs},
            limit=f"{flops / 1e9:.3g} GFLOP at the {rate:,.0f} GFLOP/s of square products in {name_of(dtype)}",
            limit_s=flops / rate / 1e9,
            flops=flops,
            agreement=agreement,
        )
    ]


def _ours(
    bench: Bench, model: Transformer, recipe: TrainConfig, batches: Sequence[Batch], dtype: str | None
) -> dict[str, Callable[[], object]]:
    """Return functions that learn from each batch once: as `cutaway train` does, and on a CPU in float32 too."""
    optimizers = make_optimizers(model, recipe)

    def steps(dtype: str) -> Callable[[], object]:
        take_step = TrainStep(model, optimizers, recipe.replace(dtype=dtype), tell=bench.tell_once)

        def learn() -> float:
            found = [take_step([batch], learning_rate=recipe.learning_rate) for batch in batches]
            return float(found[-1][0])  # which waits for a GPU

        return learn

    chosen = [dtype] if dtype else [pick_dtype("auto", bench.device), *(["float32"] if bench.is_cpu else [])]
    how = "compiled" if recipe.compile else "as it is"
    return {f"{each}, {how}": steps(each) for each in dict.fromkeys(chosen)}


def _theirs(
    bench: Bench, model: Transformer, recipe: TrainConfig, batches: Sequence[Batch]
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Return nanoGPT's functions that do the same, and how far its logits are from ours."""
    nanogpt = bench.peers.nanogpt
    if nanogpt is None:
        return {}, {}
    if reason := nanogpt.why_not(recipe.model):
        bench.tell_once(f"nanoGPT is left out: {reason}")
        return {}, {}
    made, (tokens, _) = nanogpt.model(model), batches[0]
    with torch.no_grad():
        apart = bench.check_agreement(nanogpt.name, model(tokens), nanogpt.logits(made, tokens), dtype=torch.float32)
    ways = [False, True] if recipe.compile else [False]
    functions = {
        f"nanoGPT, {'compiled' if compile else 'as it is'}": nanogpt.steps(made, recipe, batches, compile=compile)
        for compile in ways
    }
    return functions, dict.fromkeys(functions, apart)
