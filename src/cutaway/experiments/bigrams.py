"""Bigrams: a transformer without layers is a table, and training makes it the table of what follows what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.experiments.characters import random_windows, read_characters
from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.interp.factored import W_E, W_U
from cutaway.interp.ranks import rank_correlation
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "BigramTable", "Config", "run", "draw"]

_N_DRAWN = 28  # the commonest characters


@dataclass(frozen=True, kw_only=True)
class Config:
    """The text and how its characters are learnt; `d_model` is at least their number, so that any table can be written."""

    corpus: str = "stdlib"
    n_characters: int = 1_000_000
    d_model: int = 128
    n_steps: int = 3000
    batch_size: int = 64
    window: int = 64


@dataclass(frozen=True, eq=False)
class BigramTable:
    """How often each token follows each other in a text."""

    counts: Float[Tensor, "token next"]

    @classmethod
    def of(cls, tokens: Int[Tensor, " pos"], d_vocab: int) -> BigramTable:
        """Count the pairs of neighbours in a text."""
        pairs = tokens[:-1] * d_vocab + tokens[1:]
        return cls(torch.bincount(pairs, minlength=d_vocab**2).reshape(d_vocab, d_vocab).double())

    @property
    def seen(self) -> Bool[Tensor, "token next"]:
        """The pairs that the text has."""
        return self.counts > 0

    @property
    def log_probs(self) -> Float[Tensor, "token next"]:
        """The log of the share of each token's followers, -inf for what never follows; the last token of a text may have none."""
        return (self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)).log()

    @property
    def unigram_log_probs(self) -> Float[Tensor, "token next"]:
        """The same where it does not matter what was before."""
        return (self.counts.sum(0) / self.counts.sum()).log().expand_as(self.counts)

    def kl(self, log_probs: Float[Tensor, "token next"]) -> float:
        """Return how many nats a token a prediction costs more than this table does."""
        excess = (self.log_probs - log_probs)[self.seen]
        return ((self.counts[self.seen] * excess).sum() / self.counts.sum()).item()

    def entropy(self) -> float:
        """Return the nats a token that this table costs itself."""
        return -self.kl(torch.zeros_like(self.counts))


def run(config: Config, trial: Trial) -> Outcome:
    """Train embedding and unembedding on a text, and hold `W_E W_U` against the table that was counted in it."""
    tokenizer, tokens = read_characters(config.corpus, config.n_characters)
    table = BigramTable.of(tokens, tokenizer.d_vocab)
    shape = ModelConfig(
        d_vocab=tokenizer.d_vocab, n_ctx=config.window, n_layers=0, n_heads=1, d_model=config.d_model,
        norm="none", position="none", tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape, generator=trial.generator("weights"))
    untrained = _table_of(model)

    def loss(step: int) -> Float[Tensor, ""]:
        generator = trial.generator("batch", step)
        return next_token_loss(model, *random_windows(tokens, config.window, config.batch_size, generator=generator))

    recipe = Recipe(n_steps=config.n_steps, learning_rate=1e-2, n_warmup_steps=20, n_decay_steps=config.n_steps // 2)
    curves = trial.learn("no layers", model, loss, recipe)
    learnt = _table_of(model)
    return Outcome(
        checks=(
            Check(
                name="KL divergence of W_E W_U from the bigrams counted, nats a token", at_most=0.02,
                value=table.kl(learnt), null=table.kl(table.unigram_log_probs), null_of="unigrams",
            ),
            Check(
                name="rank correlation of W_E W_U with the bigrams counted, over pairs that occur", at_least=0.95,
                value=_agreement(table, learnt), null=_agreement(table, table.unigram_log_probs), null_of="unigrams",
            ),
        ),
        numbers={
            "characters known": tokenizer.d_vocab,
            "pairs seen": int(table.seen.sum()),
            "entropy of the bigrams counted, nats": table.entropy(),
            "KL divergence before training, nats": table.kl(untrained),
            "rank correlation before training": _agreement(table, untrained),
        },
        arrays={
            "loss": curves["loss"],
            "counted": table.log_probs,
            "learnt": learnt,
            "counts": table.counts,
        },
        texts={"characters": tokenizer.characters},
        models={"bigrams-0l": LanguageModel(model, tokenizer)},
    )  # fmt: skip


def _table_of(model: Transformer) -> Float[Tensor, "token next"]:
    """Return the log-probabilities of `W_E W_U`, which is all that a model without layers is."""
    return (W_E(model) @ W_U(model)).detach().double().log_softmax(-1)


def _agreement(table: BigramTable, log_probs: Float[Tensor, "token next"]) -> float:
    return rank_correlation(table.log_probs[table.seen], log_probs[table.seen]) or 0.0


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw both tables, each log-probability less that of the character anywhere, and the loss on its way to the entropy."""
    from cutaway.plots import heatmap, loss_figure

    counts = outcome.arrays["counts"]
    common = counts.sum(0).argsort(descending=True)[:_N_DRAWN]
    anywhere = (counts.sum(0) / counts.sum()).log()
    labels = [outcome.texts["characters"][token] for token in common]
    figures = {}
    titles = {"Bigrams counted in the text": "Counted in the text", "Bigrams in the weights": "Read off the weights: W_E W_U"}
    for (heading, title), name in zip(titles.items(), ("counted", "learnt"), strict=True):
        excess = (outcome.arrays[name] - anywhere)[common][:, common]
        figures[heading] = heatmap(
            excess.where(excess.isfinite(), torch.nan).numpy(), rows=labels, columns=labels, title=title, row_title="character",
            column_title="the next", label="log-probability less that anywhere, nats", signed=True, limit=4.0,
        )  # fmt: skip
    steps, losses = outcome.arrays["loss"].tolist()
    entropy = outcome.numbers["entropy of the bigrams counted, nats"]
    figures["Loss while training"] = loss_figure(
        {"no layers": (steps, losses)}, expected=entropy, title="Down to the entropy of the bigrams counted"
    )
    return figures


EXPERIMENT = Experiment(
    id="bigrams",
    title="Bigrams without a layer",
    claim="A transformer without layers is one matrix, W_E W_U, and training makes it the log-probabilities of bigrams.",
    source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section on zero-layer transformers",
    scales={
        "small": Scale(config=Config(), minutes=0.2),
        "reduced": Scale(config=Config(n_characters=300_000, n_steps=1200, batch_size=32)),
    },
    run=run,
    draw=draw,
    captions={
        "Bigrams counted in the text": (
            "How much likelier (blue) or rarer (orange) a character is after another than anywhere in the text. Cells of pairs that "
            "never occur are empty."
        ),
        "Bigrams in the weights": (
            "The same read off the trained weights, as the product of embedding and unembedding, without any text: the two pictures "
            "nearly agree wherever there were pairs to count."
        ),
        "Loss while training": (
            "The loss comes down to the dashed line, the entropy of the bigrams counted: whoever sees one character alone cannot "
            "foretell the next one of this text better."
        ),
    },
)
