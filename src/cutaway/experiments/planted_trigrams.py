"""Texts of random tokens with skip-trigrams planted in them: where A came anywhere before, B is mostly followed by C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["PlantedTexts", "PlantedTrigrams"]

_N_SOURCES = 2  # of each destination
_P_SOURCE, _P_DESTINATION = 0.3, 0.25  # of a token that is drawn


class PlantedTexts(NamedTuple):
    """Rows of tokens with what is known of them."""

    tokens: Int[Tensor, "batch pos"]
    log_probs: Float[Tensor, "batch pos"]
    """Of each token after those before it, by how these texts are made: no model foretells them better on average."""
    follows_destination: Bool[Tensor, "batch pos"]
    """Whether something may be foretold of a token."""


@dataclass(frozen=True, eq=False)
class PlantedTrigrams:
    """Destinations B, each with two sources A, and for each source a target C: itself, or a token of the background.

    A source foretells nothing for other destinations, so both must be known. Tokens are independent but for what is planted: after a
    destination comes with `p_target` the target of one of its sources' occurrences so far, where there are any.
    """

    triples: Int[Tensor, "triple 3"]
    """Source, destination, target."""
    frequencies: Float[Tensor, " token"]
    """Of each token where nothing is foretold."""
    p_target: float

    @classmethod
    def drawn(
        cls, d_vocab: int, *, n_destinations: int, p_target: float, is_copying: bool, generator: torch.Generator
    ) -> PlantedTrigrams:
        """Deal out the ids at random; with `is_copying` every target is its source. Raises ValueError where there are too few ids."""
        n_sources = _N_SOURCES * n_destinations
        if d_vocab < n_destinations + 2 * n_sources:
            raise ValueError(f"d_vocab is {d_vocab}; {n_destinations} destinations need at least {n_destinations + 2 * n_sources}")
        ids = torch.randperm(d_vocab, generator=generator)
        destinations, sources, background = ids.split([n_destinations, n_sources, d_vocab - n_destinations - n_sources])
        targets = sources if is_copying else background[:n_sources]
        frequencies = torch.empty(d_vocab)
        frequencies[destinations] = _P_DESTINATION / len(destinations)
        frequencies[sources] = _P_SOURCE / len(sources)
        frequencies[background] = (1 - _P_SOURCE - _P_DESTINATION) / len(background)
        triples = torch.stack([sources, destinations.repeat_interleave(_N_SOURCES), targets], dim=1)
        return cls(triples, frequencies, p_target)

    def texts(self, batch_size: int, n_pos: int, *, generator: torch.Generator) -> PlantedTexts:
        """Draw rows, one position after the other."""
        sources, destinations, targets = self.triples.unbind(1)
        tokens = torch.multinomial(self.frequencies.expand(batch_size, -1), n_pos, replacement=True, generator=generator)
        chances = torch.rand(batch_size, n_pos, generator=generator)
        probs = self.frequencies[tokens]
        n_seen = torch.zeros(batch_size, len(sources))
        for pos in range(1, n_pos):
            before = tokens[:, pos - 1, None]
            n_seen += before == sources
            weights = n_seen * (before == destinations)
            is_due = weights.sum(1) > 0
            drawn = torch.multinomial(weights + ~is_due[:, None], 1, generator=generator)[:, 0]
            tokens[:, pos] = torch.where(is_due & (chances[:, pos] < self.p_target), targets[drawn], tokens[:, pos])
            share = (weights * (tokens[:, pos, None] == targets)).sum(1) / weights.sum(1).clamp_min(1)
            p_due = self.p_target * is_due
            probs[:, pos] = p_due * share + (1 - p_due) * self.frequencies[tokens[:, pos]]
        follows = torch.isin(tokens, destinations).roll(1, 1)
        follows[:, 0] = False
        return PlantedTexts(tokens, probs.log(), follows)

    def precision(self, scores: Float[Tensor, "source destination target"]) -> float:
        """Return which share of the triples with the greatest scores are planted, of as many as there are planted."""
        top = torch.stack(torch.unravel_index(scores.flatten().topk(len(self.triples)).indices, scores.shape), dim=1)
        return (top[:, None] == self.triples).all(-1).any(1).double().mean().item()
