"""Language models of tiny models and the tokenizers that they are given."""

from collections.abc import Callable
from typing import Any

from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import Tokenizer

MakeModel = Callable[..., Transformer]

SIZES: dict[str, Any] = {"n_ctx": 64, "n_layers": 2, "n_heads": 2, "d_model": 16}


def make_lm(make_model: MakeModel, tokenizer: Tokenizer, **sizes: int) -> LanguageModel:
    return LanguageModel(make_model(ModelConfig(**{"d_vocab": tokenizer.d_vocab} | SIZES | sizes)), tokenizer)
