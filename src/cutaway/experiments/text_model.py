"""A small model of characters, trained on text that is on every machine: what several experiments look into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.config import Activation
from cutaway.experiments.characters import random_windows, read_characters
from cutaway.experiments.frame import Curves, Recipe, Trial
from cutaway.training.step import next_token_loss

__all__ = ["TextModel", "Trained", "train", "spread_windows"]


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """The model, the text, and how the one learns the other. Positions are turned into queries and keys, none is in the stream."""

    corpus: str = "stdlib"
    n_characters: int = 1_000_000
    held_out_fraction: float = 0.1
    """How much of these, at their end, the model is not trained on."""
    n_layers: int = 4
    n_heads: int = 8
    d_model: int = 64
    d_mlp: int = 128
    act: Activation = "gelu_new"
    n_ctx: int = 64
    n_steps: int = 400
    batch_size: int = 32
    learning_rate: float = 5e-3


class Trained(NamedTuple):
    """A model beside what it was before training, and the text in two parts, of which it learnt the first."""

    lm: LanguageModel
    untrained: Transformer
    learnt: Int[Tensor, " token"]
    held_out: Int[Tensor, " token"]
    curves: Curves

    @torch.no_grad()
    def held_out_loss(self, n_windows: int) -> float:
        """Return the nats a token on so many windows of the text that was held out."""
        model = self.lm.model
        windows = spread_windows(self.held_out, model.config.n_ctx + 1, n_windows=n_windows)
        return next_token_loss(model, windows[:, :-1], windows[:, 1:]).item()


def train(trial: Trial, config: TextModel) -> Trained:
    """Train a model on the first part of a text."""
    tokenizer, tokens = read_characters(config.corpus, config.n_characters)
    n_held_out = round(config.held_out_fraction * len(tokens))
    learnt, held_out = tokens[:-n_held_out], tokens[-n_held_out:]
    shape = ModelConfig(
        d_vocab=tokenizer.d_vocab, n_ctx=config.n_ctx, n_layers=config.n_layers, n_heads=config.n_heads, d_model=config.d_model,
        d_mlp=config.d_mlp, act=config.act, position="rotary", rotary_base=100.0,
    )  # fmt: skip
    model, untrained = (Transformer(shape, generator=trial.generator("weights")) for _ in range(2))

    def loss(step: int) -> Float[Tensor, ""]:
        generator = trial.generator("batch", step)
        return next_token_loss(model, *random_windows(learnt, config.n_ctx, config.batch_size, generator=generator))

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=config.learning_rate, beta2=0.99, weight_decay=0.01, n_warmup_steps=50,
        n_decay_steps=config.n_steps // 2, max_grad_norm=1.0,
    )  # fmt: skip
    curves = trial.learn("model of text", model, loss, recipe)
    return Trained(LanguageModel(model, tokenizer), untrained, learnt, held_out, curves)


def spread_windows(tokens: Int[Tensor, " token"], n_pos: int, *, n_windows: int) -> Int[Tensor, "window pos"]:
    """Return windows of a text that do not overlap, spread evenly over it; raises ValueError where it has not so many."""
    n_all = len(tokens) // n_pos
    if n_windows > n_all:
        raise ValueError(f"a text of {len(tokens)} tokens has {n_all} windows of {n_pos}, and {n_windows} are asked for")
    windows = rearrange(tokens[: n_all * n_pos], "(window pos) -> window pos", pos=n_pos)
    chosen = torch.linspace(0, n_all - 1, n_windows, dtype=torch.float64).round().long()
    return windows[chosen]
