"""How fast tokens come, with and without the cache, beside the rate at which memory can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch

from cutaway.config import ModelConfig
from cutaway.generation import CachedDecoder, CompiledDecoder
from cutaway.measure.forward import matrix_shapes
from cutaway.measure.timing import seconds, seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import evaluating, seeded_generator

__all__ = ["DecodeRate", "decode_rates", "bytes_a_token", "next_token"]


@dataclass(frozen=True)
class DecodeRate:
    """Tokens a second after a text of `length` tokens: all of it read again, its keys and values kept, and compiled."""

    length: int
    uncached_per_s: float
    cached_per_s: float
    compiled_per_s: float | None = None

    @property
    def speed_up(self) -> float:
        """How many times faster the cache makes a token."""
        return self.cached_per_s / self.uncached_per_s


def decode_rates(
    config: ModelConfig,
    *,
    lengths: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    compile: bool = False,
    n_tokens: int = 9,
) -> list[DecodeRate]:
    """Measure a model of random weights at lengths that double up to its context, by the median over `n_tokens` tokens."""
    model = Transformer(config, generator=seeded_generator(0)).to(device=device, dtype=dtype).eval()
    doubling = tuple(2**power for power in range(3, 14) if 2**power + 3 * n_tokens <= config.n_ctx)
    rates = []
    for length in lengths or doubling:
        prompt = [token % config.d_vocab for token in range(length)]
        tokens = torch.tensor([prompt], device=device)
        with evaluating(model):
            uncached_s = seconds(lambda tokens=tokens: model(tokens), n_rounds=3)  # type: ignore[misc]
            steps = {"cached": next_token(model, prompt)}
            if compile:
                steps["compiled"] = next_token(model, prompt, compile=True)
            times = seconds_in_turn(steps, n_rounds=n_tokens, n_warmups=2)
        per_s = {name: 1 / time_s for name, time_s in times.items()}
        rates.append(DecodeRate(length, 1 / uncached_s, per_s["cached"], per_s.get("compiled")))
    return rates


def next_token(model: Transformer, prompt: list[int], *, compile: bool = False) -> Callable[[], object]:
    """Return a function that decodes one more token after `prompt` each time it is called."""
    room = model.config.n_ctx - len(prompt)
    if compile:
        decoder: CachedDecoder = CompiledDecoder(model, [prompt], max_new_tokens=room, tell=warnings.warn)
    else:
        decoder = CachedDecoder(model, [prompt], max_new_tokens=room)
    decoder.read_prompts()
    ids = cycle(range(min(100, model.config.d_vocab)))
    return lambda: decoder.append([next(ids)]).argmax().item()  # reading the result waits for a GPU


def bytes_a_token(config: ModelConfig, *, length: int, dtype: torch.dtype = torch.float32) -> int:
    """Return how many bytes decoding must read for one token: every matrix once, and the keys and values so far."""
    n_weights = sum(d_in * d_out for d_in, d_out in matrix_shapes(config))
    n_cached = 2 * config.n_layers * config.n_kv_heads * config.d_head * length
    return (n_weights + n_cached) * dtype.itemsize
