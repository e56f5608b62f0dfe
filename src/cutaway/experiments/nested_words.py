"""Texts of words that open, close, or do neither: how deep one is no word says, only all words before it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["NestedTexts", "NestedWords"]

_P_NEUTRAL = 1 / 3
_ROLES = (1, -1, 0)


class NestedTexts(NamedTuple):
    """Rows of words with how many are open after each."""

    tokens: Int[Tensor, "batch pos"]
    depths: Int[Tensor, "batch pos"]


@dataclass(frozen=True, eq=False)
class NestedWords:
    """Words of three roles, as many of each, any of which may stand for its role.

    A text begins with nothing open. A word is neutral with probability 1/3; otherwise it opens or closes, either as likely, but for
    the bounds: where nothing is open it opens, and where `deepest` are it closes. Neutral words keep depth and position apart, which
    otherwise are both odd or both even.
    """

    roles: Int[Tensor, " token"]
    """1 for a word that opens, -1 for one that closes, 0 for a neutral one."""
    deepest: int

    @classmethod
    def drawn(cls, d_vocab: int, *, deepest: int, generator: torch.Generator) -> NestedWords:
        """Deal out the roles at random; raises ValueError for a number of words that does not divide into three."""
        if d_vocab < len(_ROLES) or d_vocab % len(_ROLES):
            raise ValueError(f"d_vocab is {d_vocab}; three roles of as many words each need a multiple of 3")
        order = torch.randperm(d_vocab, generator=generator)
        return cls(torch.tensor(_ROLES).repeat_interleave(d_vocab // len(_ROLES))[order], deepest)

    def of_role(self, role: int) -> Int[Tensor, " word"]:
        """Return the words of a role."""
        return (self.roles == role).nonzero()[:, 0]

    def texts(self, batch_size: int, n_pos: int, *, generator: torch.Generator) -> NestedTexts:
        """Draw rows, one position after the other."""
        is_neutral = torch.rand(batch_size, n_pos, generator=generator) < _P_NEUTRAL
        goes_up = torch.randint(2, (batch_size, n_pos), generator=generator, dtype=torch.bool)
        depth = torch.zeros(batch_size, dtype=torch.long)
        depths = []
        for neutral, up in zip(is_neutral.T, goes_up.T, strict=True):
            moved = torch.where((up & (depth < self.deepest)) | (depth == 0), 1, -1)
            depth = torch.where(neutral, depth, depth + moved)
            depths.append(depth)
        after = torch.stack(depths, dim=1)
        roles = after.diff(dim=1, prepend=torch.zeros(batch_size, 1, dtype=torch.long))
        words = torch.stack([self.of_role(role) for role in _ROLES])  # role word
        chosen = torch.randint(words.shape[1], (batch_size, n_pos), generator=generator)
        place = torch.where(roles == 1, 0, torch.where(roles == -1, 1, 2))
        return NestedTexts(words[place, chosen], after)

    def next_role_probs(self, depths: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch 3"]:
        """Return how likely the next word opens, closes, is neutral."""
        moving = 1 - _P_NEUTRAL
        opens = torch.where(depths == 0, moving, torch.where(depths == self.deepest, 0.0, moving / 2))
        return torch.stack([opens, moving - opens, torch.full_like(opens, _P_NEUTRAL)], dim=-1)

    def role_log_probs(self, logits: Float[Tensor, "*batch token"]) -> Float[Tensor, "*batch 3"]:
        """Return what logits give to each role: to opening, closing and neutral words together."""
        log_probs = logits.log_softmax(-1)
        return torch.stack([log_probs[..., self.of_role(role)].logsumexp(-1) for role in _ROLES], dim=-1)

    def closing_log_odds(self, logits: Float[Tensor, "*batch token"]) -> Float[Tensor, "*batch"]:
        """Return the log of how much likelier logits make it that the next word closes than that it opens."""
        opens, closes, _ = self.role_log_probs(logits).unbind(-1)
        return closes - opens
