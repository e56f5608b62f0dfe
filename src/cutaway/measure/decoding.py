"""One token after another, and what reading the weights for it takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor, nn

from cutaway.costs import kv_bytes_a_token
from cutaway.generation import CachedDecoder, CompiledDecoder
from cutaway.model import Transformer
from cutaway.runtime import compile_obstacle

__all__ = ["next_token", "reading_weights", "bytes_of_weights", "bytes_a_token"]


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
    return bytes_of_weights(model) + length * kv_bytes_a_token(model.config, model.embed.W_E.dtype)
