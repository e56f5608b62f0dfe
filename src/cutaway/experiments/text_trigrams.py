"""Skip-trigrams of real text: those that the weights of one layer rank first, and how much oftener they come than without their A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway import Transformer
from cutaway.experiments.characters import random_windows, read_characters
from cutaway.experiments.frame import Check, Recipe, Trial
from cutaway.experiments.text_model import spread_windows
from cutaway.experiments.trigram_circuits import bare_layer, trigram_scores
from cutaway.report import token_label
from cutaway.tokenizers import CharTokenizer
from cutaway.training.step import next_token_loss

__all__ = ["FoundInText", "TextTrigrams", "TrigramCounts", "find_in_text", "text_check"]

_RANKED, _OTHER_SOURCE, _RANDOM, _UNTRAINED = "ranked first", "with another A", "at random", "ranked first, untrained"
_TWICE = 1.0  # in log2


@dataclass(frozen=True, kw_only=True)
class TextTrigrams:
    """The text, the model, and which of its skip-trigrams are looked at."""

    corpus: str = "stdlib"
    n_characters: int = 1_000_000
    held_out_fraction: float = 0.1
    n_ctx: int = 64
    d_model: int = 64
    n_heads: int = 8
    n_steps: int = 1000
    batch_size: int = 32
    n_ranked: int = 200
    least_expected: float = 30
    """Those are ranked that would come so often in the text that is learnt if A told nothing."""


class TrigramCounts(NamedTuple):
    """How often B is followed by C in windows of a text, and how often A has come anywhere before it."""

    seen: Float[Tensor, "source destination target"]
    pairs: Float[Tensor, "destination target"]

    @classmethod
    def of(cls, windows: Int[Tensor, "window pos"], d_vocab: int) -> Self:
        """Count in windows; A comes before B in the same window."""
        rows = torch.arange(len(windows))
        came = torch.zeros(len(windows), d_vocab)
        seen, pairs = torch.zeros(d_vocab**2, d_vocab), torch.zeros(d_vocab**2)
        for here, following in zip(windows[:, :-1].unbind(1), windows[:, 1:].unbind(1), strict=True):
            pair = here * d_vocab + following
            seen.index_add_(0, pair, came)
            pairs.index_add_(0, pair, torch.ones(len(windows)))
            came[rows, here] = 1
        of_pairs = rearrange(seen, "(destination target) source -> source destination target", target=d_vocab)
        return cls(of_pairs, pairs.unflatten(0, (d_vocab, d_vocab)))

    @property
    def expected(self) -> Float[Tensor, "source destination target"]:
        """How often C would follow A ... B if A told nothing: as often as it follows B."""
        return self.seen.sum(-1, keepdim=True) * (self.pairs / self.pairs.sum(-1, keepdim=True).clamp_min(1))

    @property
    def lift(self) -> Float[Tensor, "source destination target"]:
        """How much oftener it does, in log2, 1 being added to both counts: what hardly ever comes says nothing."""
        return ((self.seen + 1) / (self.expected + 1)).log2()


class FoundInText(NamedTuple):
    """How much oftener skip-trigrams come in text held out than without their A, in log2, by how they were chosen."""

    lifts: Mapping[str, Float[Tensor, " triple"]]
    names: list[str]
    """Of those ranked first."""
    loss: float
    """Nats a character on text held out."""

    def share(self, chosen: str, *, rarer: bool = False) -> float:
        """Return the share that comes at least twice as often, or at most half as often."""
        lifts = self.lifts[chosen]
        return ((-lifts if rarer else lifts) >= _TWICE).double().mean().item()


def find_in_text(config: TextTrigrams, trial: Trial) -> FoundInText:
    """Train one layer on a text, and count those that its weights rank first in text held out, beside three other choices."""
    tokenizer, tokens = read_characters(config.corpus, config.n_characters)
    n_held_out = round(config.held_out_fraction * len(tokens))
    learnt, held_out = tokens[:-n_held_out], tokens[-n_held_out:]
    model, untrained = _train(config, trial, learnt, tokenizer.d_vocab)
    of_learnt, of_held_out = (_windows(each, config.n_ctx) for each in (learnt, held_out))
    may_come = TrigramCounts.of(of_learnt, tokenizer.d_vocab).expected >= config.least_expected
    may_come &= ~torch.eye(tokenizer.d_vocab, dtype=torch.bool)[..., None]  # B before itself is no skip
    generator = trial.generator("triples of text")
    frequencies = torch.bincount(learnt, minlength=tokenizer.d_vocab) / len(learnt)
    ranked, of_untrained = (_ranked(each, may_come, config.n_ranked, frequencies) for each in (model, untrained))
    chosen = {
        _RANKED: ranked,
        _OTHER_SOURCE: _with_another_source(ranked, may_come, generator),
        _RANDOM: _at_random(may_come, config.n_ranked, generator),
        _UNTRAINED: of_untrained,
    }
    lift = TrigramCounts.of(of_held_out, tokenizer.d_vocab).lift
    with torch.no_grad():
        loss = next_token_loss(model, of_held_out[:256, :-1], of_held_out[:256, 1:]).item()
    return FoundInText({name: lift[triples.unbind(1)] for name, triples in chosen.items()}, _names(ranked, tokenizer), loss)


def text_check(found: FoundInText) -> Check:
    """Return whether many of those that the weights rank first come oftener than without their A."""
    nulls = {name: found.share(name) for name in found.lifts if name != _RANKED}
    return Check(
        name="text: share of the skip-trigrams ranked first that come at least twice as often in text held out as without A",
        at_least=0.125, value=found.share(_RANKED), null=max(nulls.values()), null_of="most of another A, random ones, untrained",
    )  # fmt: skip


def _train(config: TextTrigrams, trial: Trial, learnt: Int[Tensor, " token"], d_vocab: int) -> tuple[Transformer, Transformer]:
    """Return a model that has learnt a text, and what it was before."""
    model, untrained = (
        bare_layer(
            d_vocab, config.n_ctx, d_model=config.d_model, n_heads=config.n_heads, generator=trial.generator("weights of text")
        )
        for _ in range(2)
    )

    def loss(step: int) -> Float[Tensor, ""]:
        generator = trial.generator("batch of text", step)
        return next_token_loss(model, *random_windows(learnt, config.n_ctx, config.batch_size, generator=generator))

    recipe = Recipe(
        n_steps=config.n_steps,
        learning_rate=1e-2,
        beta2=0.99,
        n_warmup_steps=50,
        n_decay_steps=config.n_steps // 2,
        max_grad_norm=1.0,
    )
    trial.learn("text", model, loss, recipe)
    return model, untrained


def _windows(tokens: Int[Tensor, " token"], n_ctx: int) -> Int[Tensor, "window pos"]:
    """Return all windows of a text that a model reads, with what comes next; they do not overlap."""
    return spread_windows(tokens, n_ctx + 1, n_windows=len(tokens) // (n_ctx + 1))


def _ranked(
    model: Transformer, may_come: Bool[Tensor, "source destination target"], n: int, frequencies: Float[Tensor, " source"]
) -> Int[Tensor, "triple 3"]:
    """Return so many of those that may come to which the weights add most, beyond what other sources add in the mean."""
    scores = trigram_scores(model, frequencies).masked_fill(~may_come, -torch.inf)
    return torch.stack(torch.unravel_index(scores.flatten().topk(n).indices, scores.shape), dim=1)


def _at_random(may_come: Bool[Tensor, "source destination target"], n: int, generator: torch.Generator) -> Int[Tensor, "triple 3"]:
    triples = may_come.nonzero()
    return triples[torch.randperm(len(triples), generator=generator)[:n]]


def _with_another_source(
    triples: Int[Tensor, "triple 3"], may_come: Bool[Tensor, "source destination target"], generator: torch.Generator
) -> Int[Tensor, "triple 3"]:
    """Return the same destinations and targets, each with a source drawn from all that may come before them."""
    _, destinations, targets = triples.unbind(1)
    sources = torch.multinomial(may_come[:, destinations, targets].T.float(), 1, generator=generator)[:, 0]
    return torch.stack([sources, destinations, targets], dim=1)


def _names(triples: Int[Tensor, "triple 3"], tokenizer: CharTokenizer) -> list[str]:
    characters = [[token_label(tokenizer.decode([token])) for token in triple] for triple in triples.tolist()]
    return [f"{source} … {destination} → {target}" for source, destination, target in characters]
