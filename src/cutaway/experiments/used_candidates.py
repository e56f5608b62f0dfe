"""Texts in which a trigger is followed by one of its candidates, never by one that was there before, and a word by itself."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.tokenizers import CharTokenizer

__all__ = ["AGAIN", "CandidateTexts", "Candidates", "letters_of"]

AGAIN = 0
"""The token after which the last candidate comes again."""
_MOST = 26  # triggers, and candidates, as there are letters


class CandidateTexts(NamedTuple):
    """Rows of turns, each a trigger and a candidate, or AGAIN and the candidate before it, with what is known of them."""

    tokens: Int[Tensor, "batch pos"]
    """Turn by turn: what calls for a candidate at even positions, the candidate at odd ones."""
    log_probs: Float[Tensor, "batch turn"]
    """Of each turn's candidate after what was before it, by how these texts are made: no model foretells it better on average."""
    is_again: Bool[Tensor, "batch turn"]
    is_forbidden: Bool[Tensor, "batch turn candidate"]
    """What the turn's trigger could be followed by had it not been there before; none where the last candidate comes again."""

    def is_forbidden_key(self, first: int) -> Bool[Tensor, "batch turn pos"]:
        """Return where a turn looks back on a candidate that is forbidden there; `first` is the first candidate's id."""
        n_turns = self.is_forbidden.shape[1]
        at = (self.tokens - first).clamp_min(0)[:, None].expand(-1, n_turns, -1)
        return self.is_forbidden.gather(-1, at) & self.is_used_key(first)

    def measured(self, logits: Float[Tensor, "batch pos token"], first: int) -> dict[str, Float[Tensor, " batch"]]:
        """Return what is measured of each row, as a mean over those of its turns that it is of; `first` is the first candidate's id."""
        log_probs = logits[:, ::2].log_softmax(-1)  # batch turn token
        losses = -log_probs.gather(-1, self.tokens[:, 1::2, None])[..., 0]
        is_exposed = self.is_forbidden.any(-1)
        forbidden = (log_probs[..., first:].exp() * self.is_forbidden).sum(-1)
        return {
            "forbidden": _mean(forbidden, is_exposed),
            "something forbidden": _mean(losses, is_exposed),
            "nothing forbidden": _mean(losses, ~is_exposed & ~self.is_again),
            "least possible": _mean(-self.log_probs, is_exposed),
            "again": _mean(losses, self.is_again),
        }

    def is_used_key(self, first: int) -> Bool[Tensor, "batch turn pos"]:
        """Return where a turn looks back on any candidate."""
        n_turns, n_pos = self.is_forbidden.shape[1], self.tokens.shape[1]
        is_before = torch.arange(n_pos) < 2 * torch.arange(n_turns)[:, None]
        return (self.tokens >= first)[:, None] & is_before


def _mean(values: Float[Tensor, "batch turn"], is_counted: Bool[Tensor, "batch turn"]) -> Float[Tensor, " batch"]:
    return (values * is_counted).sum(-1) * len(values) / is_counted.sum()  # so that the mean over rows is that over turns


@dataclass(frozen=True, eq=False)
class Candidates:
    """Triggers, each with its candidates. Every candidate is one of several triggers, in other company."""

    allowed: Bool[Tensor, "trigger candidate"]
    p_again: float
    """Of a turn that calls for the last candidate again."""

    @classmethod
    def drawn(cls, n_triggers: int, n_candidates: int, *, n_each: int, p_again: float, generator: torch.Generator) -> Candidates:
        """Give each trigger `n_each` of the candidates at random; raises ValueError for numbers that do not go together."""
        if not 1 <= n_each <= n_candidates <= _MOST or not 1 <= n_triggers <= _MOST:
            raise ValueError(
                f"{n_triggers} triggers with {n_each} of {n_candidates} candidates each: there are letters for 1 to {_MOST} of both"
            )
        chosen = torch.rand(n_triggers, n_candidates, generator=generator).argsort(1)[:, :n_each]
        return cls(F.one_hot(chosen, n_candidates).sum(1).bool(), p_again)

    @property
    def first(self) -> int:
        """The first candidate's id: AGAIN comes first, then the triggers."""
        return 1 + len(self.allowed)

    @property
    def d_vocab(self) -> int:
        """How many tokens there are."""
        return self.first + self.allowed.shape[1]

    @property
    def tokenizer(self) -> CharTokenizer:
        """Triggers are written A, B, ..., candidates a, b, ..., and AGAIN as +."""
        n_triggers, n_candidates = self.allowed.shape
        return CharTokenizer("+" + ascii_uppercase[:n_triggers] + ascii_lowercase[:n_candidates])

    def texts(self, batch_size: int, n_turns: int, *, generator: torch.Generator) -> CandidateTexts:
        """Draw rows, one turn after the other: a trigger that has a candidate left, each alike, and one of what is left.

        Raises ValueError for more turns than there may be new candidates, if none comes again.
        """
        n_candidates = self.allowed.shape[1]
        if n_turns > n_candidates:
            raise ValueError(f"{n_turns} turns may need as many candidates and there are {n_candidates}: give fewer turns")
        is_used, last = torch.zeros(batch_size, n_candidates, dtype=torch.bool), torch.zeros(batch_size, dtype=torch.long)
        tokens, log_probs, again, forbidden = [], [], [], []
        for turn in range(n_turns):
            is_free = self.allowed & ~is_used[:, None]  # batch trigger candidate
            has_any = is_free.any(-1)
            is_again = (torch.rand(batch_size, generator=generator) < self.p_again) & (turn > 0)
            is_again |= ~has_any.any(-1)
            trigger = torch.multinomial((has_any | ~has_any.any(-1, keepdim=True)).float(), 1, generator=generator)[:, 0]
            free = torch.where(is_again[:, None], F.one_hot(last, n_candidates).bool(), _row(is_free, trigger))
            last = torch.multinomial(free.float(), 1, generator=generator)[:, 0]
            tokens += [torch.where(is_again, AGAIN, 1 + trigger), self.first + last]
            log_probs.append(-free.sum(-1).log())
            again.append(is_again)
            forbidden.append(self.allowed[trigger] & is_used & ~is_again[:, None])
            is_used = is_used | F.one_hot(last, n_candidates).bool()
        return CandidateTexts(*(torch.stack(each, 1) for each in (tokens, log_probs, again, forbidden)))


def _row(of: Bool[Tensor, "batch trigger candidate"], trigger: Int[Tensor, " batch"]) -> Bool[Tensor, "batch candidate"]:
    return of[torch.arange(len(trigger)), trigger]


def letters_of(tokens: Int[Tensor, " pos"], n_triggers: int) -> list[str]:
    """Return tokens as `Candidates.tokenizer` writes them, for so many triggers."""
    return [
        "+" if token == AGAIN else chr(ord("A") + token - 1) if token <= n_triggers else chr(ord("a") + token - 1 - n_triggers)
        for token in tokens.tolist()
    ]
