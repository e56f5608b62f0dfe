"""How fast tokens come, with and without the cache, beside the rate at which memory can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.generation import CachedDecoder, CompiledDecoder
from cutaway.measure.timing import seconds, seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import compile_obstacle, seeded_generator

__all__ = ["DecodeRate", "decode_rates", "next_token", "reading_weights", "bytes_of_weights", "bytes_a_token"]


@dataclass(frozen=True)
class DecodeRate:
    """Tokens a second after a text of `length` tokens, and how many there could be if reading memory were all it took.

    Uncached reads all of the text again for each token; cached keeps its keys and values; compiled is None unless it was asked for.
    """

    length: int
    uncached_per_s: float
    cached_per_s: float
    compiled_per_s: float | None
    limit_per_s: float

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
        with torch.inference_mode():
            uncached_s = seconds(lambda tokens=tokens: model(tokens)[0, 0, 0].item(), n_rounds=3)  # type: ignore[misc]
            steps = {"cached": next_token(model, prompt)}
            steps |= {f"reading {is_compiled}": reading_weights(model, compile=is_compiled) for is_compiled in (True, False)}
            if compile:
                steps["compiled"] = next_token(model, prompt, compile=True)
            times = seconds_in_turn(steps, n_rounds=n_tokens, n_warmups=2)
        share = bytes_of_weights(model) / bytes_a_token(model, length=length)
        reading_s = min(times["reading True"], times["reading False"])
        compiled_per_s = 1 / times["compiled"] if compile else None
        rates.append(DecodeRate(length, 1 / uncached_s, 1 / times["cached"], compiled_per_s, share / reading_s))
    return rates


def reading_weights(model: Transformer, *, compile: bool = True) -> Callable[[], object]:
    """Return a function that reads every matrix of the model once, adding it up: what decoding a token cannot do without.

    Compiled, two rows at a time; otherwise by torch's own sum. Which is faster depends on the state of the machine: the limit is the
    better of the two.
    """
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]

    def add_up(weights: list[Tensor]) -> list[Tensor]:
        return [half.sum(dim=-1, dtype=torch.float32) for weight in weights for half in weight.tensor_split(2)]

    if not compile or compile_obstacle(model.embed.W_E.device):
        return lambda: [weight.sum() for weight in weights][-1].item()
    add_up_compiled = torch.compile(add_up, dynamic=False)
    return lambda: add_up_compiled(weights)[-1][0].item()


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


def bytes_of_weights(model: Transformer) -> int:
    """Return the bytes of all matrices that a token is multiplied with."""
    return sum(layer.weight.nbytes for layer in model.modules() if isinstance(layer, nn.Linear))


def bytes_a_token(model: Transformer, *, length: int) -> int:
    """Return how many bytes decoding must read for one token: every matrix once, and the keys and values so far."""
    config = model.config
    n_cached = 2 * config.n_layers * config.n_kv_heads * config.d_head * length
    return bytes_of_weights(model) + n_cached * model.embed.W_E.itemsize
