"""One forward pass, beside its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cutaway.flops import forward_flops
from cutaway.measure import matrix_products, medians_in_turn, timed
from cutaway.profiles.bench import Bench, Request, name_of
from cutaway.profiles.comparison import Comparison

__all__ = ["compare_forward"]


@torch.inference_mode()
def compare_forward(bench: Bench, request: Request) -> list[Comparison]:
    """Return how long a pass takes beside transformers and TransformerLens; 4 x 64 tokens, on a GPU 8 x 1,024, unless given."""
    preset, config = request.config()
    dtype = request.dtype or torch.float32
    batch, n_pos = request.batch or (4 if bench.is_cpu else 8), request.length or min(64 if bench.is_cpu else 1024, config.n_ctx)
    tokens = bench.tokens(config, batch, n_pos)
    model = bench.model(config, name=preset, dtype=dtype, n_copies=3)
    logits = model(tokens)
    timers: dict[str, Callable[[], float]] = {"cutaway": timed(lambda: model(tokens)[0, 0, 0].item())}  # which waits for a GPU
    agreement = {}
    if hugging_face := bench.hugging_face(model):
        agreement[hugging_face.name] = bench.check_agreement(hugging_face.name, logits, hugging_face.logits(tokens), dtype=dtype)
        timers[hugging_face.name] = timed(lambda: hugging_face.logits(tokens)[0, 0, 0].item())
    if lens := bench.transformer_lens(model):
        agreement[lens.name] = bench.check_agreement(lens.name, logits, lens.logits(tokens), dtype=dtype)
        timers[lens.name] = lambda: lens.forward_s(tokens)
    timers[""] = timed(matrix_products(config, batch * n_pos, dtype=dtype, device=bench.device))
    times = medians_in_turn(timers, n_rounds=bench.rounds(9), n_warmups=2)
    products_s = times.pop("")
    return [
        Comparison(
            work="forward",
            case=f"{preset}, {batch} x {n_pos} tokens, {name_of(dtype)}",
            length=n_pos,
            unit="tokens",
            n_units=batch * n_pos,
            ours={"cutaway": times.pop("cutaway")},
            peers=times,
            limit="its matrix products alone, in turn",
            limit_s=products_s,
            flops=batch * forward_flops(config, n_pos),
            agreement=agreement,
        )
    ]
