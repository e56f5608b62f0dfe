"""One token after another, beside the rate at which the weights can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from cutaway.config import ModelConfig
from cutaway.measure import (
    bytes_a_token,
    bytes_of_weights,
    next_token,
    reading_weights,
    seconds,
    seconds_in_turn,
)
from cutaway.model import Transformer
from cutaway.profiles.bench import Bench, Request, name_of
from cutaway.profiles.comparison import Comparison
from cutaway.profiles.hugging_face import HuggingFace
from cutaway.runtime import compile_obstacle

__all__ = ["compare_decoding"]

_N_WARMUPS = 2


@torch.inference_mode()
def compare_decoding(bench: Bench, request: Request) -> list[Comparison]:
    """Return how fast one row goes on after texts of some lengths, beside transformers with its cache.

    Lengths grow fourfold from 8 up to the model's context unless one is given. Without the cache each token reads all of the text
    again.
    """
    preset, config = request.config()
    dtype = request.dtype or torch.float32
    n_rounds = bench.rounds(9 if request.length is None else 40)
    lengths = _lengths(config, request.length, n_rounds)
    model = bench.model(config, name=preset, dtype=dtype, n_copies=2)
    peer, tokens = bench.hugging_face(model), bench.tokens(config, 1, min(8, config.n_ctx))
    agreement = {peer.name: bench.check_agreement(peer.name, model(tokens), peer.logits(tokens), dtype=dtype)} if peer else {}
    obstacle = compile_obstacle(bench.device)
    if request.compile and obstacle:
        bench.tell_once(f"{obstacle}, so the compiled step is left out")
    is_compiled = request.compile and obstacle is None
    reads = {f"reading {compile}": reading_weights(model, compile=compile) for compile in (True, False)}
    after = partial(_after, bench, model, peer, reads, agreement, preset=preset, is_compiled=is_compiled, n_rounds=n_rounds)
    return [after(length) for length in lengths]


def _lengths(config: ModelConfig, length: int | None, n_rounds: int) -> Sequence[int]:
    most = config.n_ctx - _N_WARMUPS - 1
    if length is not None and not 1 <= length <= most:
        raise ValueError(
            f"the length is {length}; expected 1 to {most}, as this model reads {config.n_ctx} tokens and some are to follow"
        )
    if length is not None:
        return [length]
    room = n_rounds + _N_WARMUPS + 1
    return [2**power for power in range(3, 14, 2) if 2**power + room <= config.n_ctx] or [1]


def _after(
    bench: Bench,
    model: Transformer,
    peer: HuggingFace | None,
    reads: Mapping[str, Callable[[], object]],
    agreement: dict[str, float],
    length: int,
    *,
    preset: str,
    is_compiled: bool,
    n_rounds: int,
) -> Comparison:
    """Return how fast tokens come after so many."""
    config, dtype = model.config, model.embed.W_E.dtype
    prompt, tokens = [token % config.d_vocab for token in range(length)], bench.tokens(config, 1, length)
    uncached_s = seconds(lambda: model(tokens)[0, 0, 0].item(), n_rounds=min(3, bench.rounds(3)))
    steps: dict[str, Callable[[], object]] = {"with the cache": next_token(model, prompt)}
    steps |= {"compiled": next_token(model, prompt, compile=True)} if is_compiled else {}
    steps |= {peer.name: peer.next_token(prompt)} if peer else {}
    n_rounds = min(n_rounds, config.n_ctx - length - _N_WARMUPS)
    times = seconds_in_turn({**steps, **reads}, n_rounds=n_rounds, n_warmups=_N_WARMUPS)
    reading_s = min(times.pop(name) for name in reads)
    theirs = {name: times.pop(name) for name in agreement}
    return Comparison(
        work="decode",
        case=f"{preset}, one row after {length} tokens, {name_of(dtype)}",
        length=length,
        unit="tokens",
        n_units=1,
        ours={"without the cache": uncached_s, **times},
        peers=theirs,
        limit=f"weights read at {bytes_of_weights(model) / reading_s / 1e9:.3g} GB/s",
        limit_s=reading_s * bytes_a_token(model, length=length) / bytes_of_weights(model),
        agreement=agreement,
    )
