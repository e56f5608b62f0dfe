"""Addition modulo a prime: all its sums, a one-layer transformer that learns them, and what of it is waves (Nanda et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import WordTokenizer

__all__ = [
    "Sums",
    "fourier_basis",
    "frequency_power",
    "key_frequencies",
    "language_model",
    "make_model",
    "sum_waves",
]


@dataclass(frozen=True)
class Sums:
    """Every a + b = with its answer, and which of them a model learns from."""

    prime: int
    tokens: Int[Tensor, "pair 3"]
    """a, b and the sign =, whose id is the prime; pair a * prime + b."""
    answers: Int[Tensor, " pair"]
    train: Int[Tensor, " train"]
    test: Int[Tensor, " test"]

    @classmethod
    def drawn(cls, prime: int, train_fraction: float, *, generator: torch.Generator) -> Sums:
        """Return all sums of a prime, a fraction of them drawn to learn from."""
        a, b = torch.arange(prime).repeat_interleave(prime), torch.arange(prime).repeat(prime)
        order = torch.randperm(prime**2, generator=generator)
        n_train = round(train_fraction * prime**2)
        tokens = torch.stack([a, b, torch.full_like(a, prime)], dim=1)
        return cls(prime, tokens, (a + b) % prime, order[:n_train].sort().values, order[n_train:].sort().values)

    def logits(self, model: Transformer, pairs: Int[Tensor, " some"] | None = None) -> Float[Tensor, "some answer"]:
        """Return what a model answers to pairs, all unless given."""
        tokens = self.tokens if pairs is None else self.tokens[pairs]
        logits: Tensor = model(tokens)
        return logits[:, -1]

    def loss(self, logits: Float[Tensor, "pair answer"], pairs: Int[Tensor, " some"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of some pairs in nats, from the logits of all; summed in float64, as it becomes very small."""
        return F.cross_entropy(logits[pairs].double(), self.answers[pairs])

    def accuracy(self, logits: Float[Tensor, "pair answer"], pairs: Int[Tensor, " some"]) -> float:
        """Return the share of some pairs that are answered rightly, from the logits of all."""
        return (logits[pairs].argmax(-1) == self.answers[pairs]).double().mean().item()


def make_model(prime: int, *, d_model: int, n_heads: int, d_mlp: int, generator: torch.Generator) -> Transformer:
    """Return the transformer of Nanda et al.: one layer, ReLU, no norms, weights drawn with a deviation of 1/sqrt(d_model)."""
    config = ModelConfig(
        d_vocab=prime + 1, d_vocab_out=prime, n_ctx=3, n_layers=1, n_heads=n_heads, d_model=d_model, d_mlp=d_mlp, act="relu",
        norm="none", attn_bias=False, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(config, generator=generator)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=d_model**-0.5, generator=generator)
    return model


def language_model(model: Transformer) -> LanguageModel:
    """Return a model of sums with a tokenizer that reads `3 5 =`, a word a token."""
    prime = model.config.d_vocab_out
    return LanguageModel(model, WordTokenizer([*map(str, range(prime)), "="]))


def fourier_basis(prime: int) -> Float[Tensor, "wave number"]:
    """Return the waves over the numbers below a prime, each of norm 1: the constant, then cosine and sine of frequency 1, 2, ..."""
    turns = 2 * math.pi * torch.arange(prime, dtype=torch.float64) / prime
    frequencies = torch.arange(1, prime // 2 + 1, dtype=torch.float64)[:, None]
    waves = torch.stack([(frequencies * turns).cos(), (frequencies * turns).sin()], dim=1).flatten(0, 1)
    basis = torch.cat([torch.ones(1, prime, dtype=torch.float64), waves])
    return basis / basis.norm(dim=1, keepdim=True)


def frequency_power(W: Float[Tensor, "number d"]) -> Float[Tensor, " frequency"]:
    """Return the share of each frequency, 1 and up, in the power of a matrix over numbers, its mean over numbers left out."""
    power = (fourier_basis(len(W)) @ W.detach().double()).pow(2).sum(1)[1:]
    each: Tensor = power.unflatten(0, (-1, 2)).sum(1)
    return each / each.sum()


def key_frequencies(model: Transformer, n: int) -> list[int]:
    """Return the n frequencies that have most of the embedding's power, the greatest first; the sign = is no number."""
    power = frequency_power(model.embed.W_E[:-1])
    found: list[int] = (power.topk(n).indices + 1).tolist()
    return found


def sum_waves(prime: int, frequencies: list[int]) -> Float[Tensor, "wave pair"]:
    """Return cosine and sine of each frequency times a + b, over all pairs, each of norm 1."""
    pair = torch.arange(prime**2)
    total = (pair // prime + pair % prime).double()
    turns = 2 * math.pi / prime * torch.tensor(frequencies, dtype=torch.float64)[:, None] * total
    waves = torch.cat([turns.cos(), turns.sin()])
    return waves / waves.norm(dim=1, keepdim=True)


def along_waves(logits: Float[Tensor, "pair answer"], waves: Float[Tensor, "wave pair"]) -> Float[Tensor, "pair answer"]:
    """Return the part of the logits that is made of waves over the pairs."""
    amplitudes = einsum(waves, logits.double(), "wave pair, pair answer -> wave answer")
    part: Tensor = einsum(waves, amplitudes, "wave pair, wave answer -> pair answer")
    return part
