"""Addition modulo a prime: all its sums, and a transformer of one layer that learns from some of them (Power et al. 2022).

As a + b = b + a, a model that has learnt no more than this knows each test sum whose mirror is in training, close to half of them all:
accuracy is therefore measured apart on the test sums whose mirror is in the test as well.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.experiments.frame import Curves, Recipe, Trial
from cutaway.experiments.number_waves import frequency_power
from cutaway.interp.factored import W_E
from cutaway.tokenizers import WordTokenizer

__all__ = [
    "KNOWN",
    "N_PUBLISHED",
    "PUBLISHED",
    "Sums",
    "SumsConfig",
    "first_known",
    "learn_sums",
    "number_embedding",
    "sum_of_squares",
    "summing_model",
    "turn_gradients",
]

KNOWN = 0.99
"""The accuracy at which sums count as known."""

N_PUBLISHED = 5
"""Of how many frequencies the published network is made."""
PUBLISHED: Mapping[str, Any] = {
    "prime": 113, "train_fraction": 0.3, "d_model": 128, "d_mlp": 512, "n_steps": 40_000, "learning_rate": 1e-3, "look_every": 200,
}  # fmt: skip
"""The sizes and the rate of Nanda et al. 2023."""


@dataclass(frozen=True, kw_only=True)
class SumsConfig:
    """Which sums are learnt from, all at every step, and by which model."""

    prime: int = 59
    train_fraction: float = 0.45
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    n_steps: int = 2000
    n_decay_steps: int = 0
    """Steps at the end over which the rate falls."""
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    look_every: int = 25
    """Steps between two looks."""

    @property
    def recipe(self) -> Recipe:
        """How the weights are moved."""
        return Recipe(
            n_steps=self.n_steps, learning_rate=self.learning_rate, beta2=0.98, weight_decay=self.weight_decay, n_warmup_steps=10,
            n_decay_steps=self.n_decay_steps,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sums:
    """Every `a b =` with its answer, and which of them a model learns from."""

    prime: int
    tokens: Int[Tensor, "pair 3"]
    """a, b and the sign =, whose id is the prime; pair a * prime + b."""
    answers: Int[Tensor, " pair"]
    train: Int[Tensor, " train"]
    test: Int[Tensor, " test"]

    @classmethod
    def drawn(cls, config: SumsConfig, trial: Trial) -> Sums:
        """Return all sums of a prime, a fraction of them drawn to learn from."""
        prime = config.prime
        a, b = torch.arange(prime).repeat_interleave(prime), torch.arange(prime).repeat(prime)
        order = torch.randperm(prime**2, generator=trial.generator("sums"))
        n_train = round(config.train_fraction * prime**2)
        tokens = torch.stack([a, b, torch.full_like(a, prime)], dim=1)
        return cls(prime, tokens, (a + b) % prime, order[:n_train].sort().values, order[n_train:].sort().values)

    @property
    def without_mirror(self) -> Int[Tensor, " test"]:
        """The test pairs a, b of which b, a is not learnt from either."""
        mirror = self.test % self.prime * self.prime + self.test // self.prime
        return self.test[~torch.isin(mirror, self.train)]

    @property
    def with_mirror(self) -> Int[Tensor, " test"]:
        """The test pairs a, b of which b, a is learnt from."""
        return self.test[~torch.isin(self.test, self.without_mirror)]

    def logits(self, model: Transformer, pairs: Int[Tensor, " some"] | None = None) -> Float[Tensor, "some answer"]:
        """Return what a model answers to pairs, all unless given; the last position alone is computed."""
        tokens = self.tokens if pairs is None else self.tokens[pairs]
        logits: Tensor = model.unembed(model.run_blocks(model.embed(tokens), n_last=1))
        return logits[:, 0]

    def loss(self, logits: Float[Tensor, "pair answer"], pairs: Int[Tensor, " some"]) -> float:
        """Return the mean cross-entropy of some pairs in nats, from the logits of all."""
        return F.cross_entropy(logits[pairs].double(), self.answers[pairs]).item()

    def accuracy(self, logits: Float[Tensor, "pair answer"], pairs: Int[Tensor, " some"] | None = None, *, moved: int = 0) -> float:
        """Return the share of pairs, all unless given, that are answered by their sum, or by what is `moved` on from it."""
        is_right = logits.argmax(-1) == (self.answers + moved) % self.prime
        return (is_right if pairs is None else is_right[pairs]).double().mean().item()


def summing_model(config: SumsConfig, trial: Trial) -> LanguageModel:
    """Return an untrained transformer of one layer, ReLU and no norms, with a tokenizer that reads `3 5 =`.

    Every matrix is drawn with a deviation of 1/sqrt(d_model). Source: Nanda et al. 2023, who draw the unembedding with 1/sqrt(d_vocab).
    """
    shape = ModelConfig(
        d_vocab=config.prime + 1, d_vocab_out=config.prime, n_ctx=3, n_layers=1, n_heads=config.n_heads, d_model=config.d_model,
        d_mlp=config.d_mlp, act="relu", norm="none", attn_bias=False, tie_embeddings=False,
    )  # fmt: skip
    generator = trial.generator("weights")
    model = Transformer(shape, generator=generator)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=config.d_model**-0.5, generator=generator)
    return LanguageModel(model, WordTokenizer([*map(str, range(config.prime)), "="]))


def number_embedding(model: Transformer) -> Float[Tensor, "number d_model"]:
    """Return the embeddings of the numbers, in float64; the sign = is none."""
    return W_E(model).detach()[:-1].double()


def sum_of_squares(model: Transformer) -> float:
    """Return the sum of all squared weights."""
    return float(sum(weight.detach().pow(2).sum() for weight in model.parameters()))


def first_known(curve: Float[Tensor, "2 look"]) -> float | None:
    """Return the first step at which sums are known, None where they never are."""
    reached = curve[0, curve[1] >= KNOWN]
    return reached[0].item() if len(reached) else None


def learn_sums(
    trial: Trial,
    name: str,
    model: Transformer,
    sums: Sums,
    config: SumsConfig,
    *,
    adjust: Callable[[], None] = lambda: None,
    keep: Container[int] = (),
) -> Curves:
    """Train a model on all its training sums at once.

    The curves are `train accuracy`, `test accuracy` and `power`, the share of the embedding's power at its five greatest frequencies.
    The loss is taken in float64: of sums known by heart it is soon so small that float32 gives no gradient (Prieto et al. 2025).
    """

    def loss(step: int) -> Float[Tensor, ""]:  # noqa: ARG001
        return F.cross_entropy(sums.logits(model, sums.train).double(), sums.answers[sums.train])

    def watch(step: int) -> dict[str, float]:  # noqa: ARG001
        logits = sums.logits(model)
        return {
            "train accuracy": sums.accuracy(logits, sums.train),
            "test accuracy": sums.accuracy(logits, sums.test),
            "power": frequency_power(number_embedding(model)).topk(N_PUBLISHED).values.sum().item(),
        }

    return trial.learn(name, model, loss, config.recipe, adjust=adjust, watch=watch, watch_every=config.look_every, keep=keep)


def turn_gradients(model: Transformer) -> None:
    """Take from each gradient what lies along its weights, and bring it back to its length, so that it turns them.

    Source: Prieto et al. 2025, Grokking at the Edge of Numerical Stability, for each tensor by itself.
    """
    for weight in model.parameters():
        gradient, flat = weight.grad, weight.detach()
        if gradient is None or not flat.any():  # a bias begins at zero, where nothing lies along it
            continue
        across = gradient - (flat * gradient).sum() / (flat * flat).sum() * flat
        weight.grad = across * (gradient.norm() / across.norm().clamp_min(1e-30))
