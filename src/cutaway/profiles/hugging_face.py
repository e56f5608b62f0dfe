"""Hugging Face's transformers as a peer, in this process."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.model import Transformer
from cutaway.weights.families import HEAD, family_for
from cutaway.weights.renaming import to_theirs

__all__ = ["HuggingFace"]


class HuggingFace:
    """A model of the transformers library with the weights of one of ours.

    Raises ValueError for a shape that no family has there.
    """

    name = "transformers"

    def __init__(self, model: Transformer) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        family, weight = family_for(model.config), model.embed.W_E
        settings = family.config_to_hf(model.config)
        config: Any = AutoConfig.for_model(settings.pop("model_type"), **settings)
        made: Any = AutoModelForCausalLM.from_config(config, dtype=weight.dtype)  # type: ignore[no-untyped-call]
        weights = ((name, each.detach()) for name, each in model.named_parameters())
        found = made.load_state_dict(dict(to_theirs(family.rows_of(model.config), weights)), strict=False)
        missing = [name for name in found.missing_keys if name != HEAD or not model.config.tie_embeddings]
        if missing or found.unexpected_keys:
            raise RuntimeError(
                f"transformers names its weights otherwise here ({', '.join([*missing, *found.unexpected_keys][:3])})"
            )
        self._model: Any = made.to(weight.device).eval()

    @staticmethod
    def is_installed() -> bool:
        """Return whether the library can be imported."""
        return find_spec("transformers") is not None

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return its logits."""
        logits: Tensor = self._model(tokens, use_cache=False).logits
        return logits

    def next_token(self, prompt: list[int]) -> Callable[[], object]:
        """Return a function that decodes one more token after `prompt` each time it is called, with the library's own cache."""
        device = self._model.device
        cache = self._model(torch.tensor([prompt], device=device), use_cache=True).past_key_values
        ids = cycle(range(min(100, self._model.config.vocab_size)))

        def step() -> object:
            nonlocal cache
            out = self._model(torch.tensor([[next(ids)]], device=device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            return out.logits.argmax().item()  # which waits for a GPU

        return step
