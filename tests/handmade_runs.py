"""The models made by hand, each built and recorded once, and what tests ask of their heads and logits."""

from collections.abc import Mapping
from functools import cache

from torch import Tensor

from cutaway.experiments.handmade import HANDMADE, Handmade, Head
from cutaway.hooks import Hook, Hooks, recording
from cutaway.model import Transformer

ROUNDING = 1e-10  # float64: logits of about 10, and with a norm a ballast of 1000 among coordinates of about 1


@cache
def built(name: str) -> Handmade:
    made = HANDMADE[name](n_prompts=4)
    made.model.requires_grad_(False)
    return made


@cache
def activations(name: str, tokens: str = "tokens") -> Mapping[str, Tensor]:
    hooks, recorded = recording("*")
    built(name).model(getattr(built(name), tokens), hooks=hooks)
    return recorded


def recorded(made: Handmade, tokens: str = "tokens") -> Mapping[str, Tensor]:
    return activations(next(name for name in HANDMADE if built(name) is made), tokens)


def logit_diff(
    made: Handmade, hooks: Mapping[str, Hook] | None = None, *, tokens: Tensor | None = None, model: Transformer | None = None
) -> Tensor:
    return made.logit_diff((model or made.model)(made.tokens if tokens is None else tokens, hooks=Hooks(hooks or {})))


def all_heads(made: Handmade) -> list[Head]:
    return [Head(layer, head) for layer in range(made.model.config.n_layers) for head in range(made.model.config.n_heads)]
