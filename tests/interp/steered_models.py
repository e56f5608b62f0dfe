"""Models to steer, plain recordings of them, drawn vectors, and questions that one of them is asked."""

import torch
from torch import Tensor

from cutaway import LanguageModel
from cutaway.hooks import recording
from cutaway.interp.steering import SteeringVector
from cutaway.model import Transformer
from cutaway.tokenizers import BPETokenizer, CharTokenizer
from cutaway.weights import model_sha256
from interp.models import small_model

# float64 sums in another order
EXACT = 1e-10

LETTERS = "abcdefghijklmnopqrstuvwxyz .:\nQAXYZ"


def language_model(**changes: object) -> LanguageModel:
    tokenizer = CharTokenizer(LETTERS)
    return LanguageModel(small_model(n_ctx=64, d_vocab=tokenizer.d_vocab, **changes), tokenizer)


def activation(model: Transformer, tokens: Tensor, name: str) -> Tensor:
    hooks, found = recording(name)
    with torch.no_grad():
        model(tokens, hooks=hooks)
    return found[name]


def vector_of(model: Transformer, *, name: str = "blocks.1.resid_post", scale: float = 1.0, seed: int = 0) -> SteeringVector:
    drawn = torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return SteeringVector(name, scale * drawn, "drawn", model_sha256(model))


PAIRS = [(a, b) for a, b in zip("abcdefghijkl", "lkjihgfedcba", strict=True)]


def answering_model() -> LanguageModel:
    """A model in which a letter and the space before it are one token, so that an answer's first token says which it is."""
    tokenizer = BPETokenizer.train(" a b c d e f g h i j k l" * 20, 256 + 12)
    return LanguageModel(small_model(n_ctx=64, d_vocab=tokenizer.d_vocab), tokenizer)
