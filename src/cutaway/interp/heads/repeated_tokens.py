"""Random tokens that come twice: what can be foretold of the second copy was read from the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.interp.rows import model_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import NoTokenizer

__all__ = ["RepeatedTokens", "repeated_tokens"]

_SEQ_LENGTH = 50
_LEAST = 2  # one token has no position after its occurrence that is not its own


@dataclass(frozen=True, eq=False)
class RepeatedTokens:
    """Sequences of distinct random tokens, each followed by itself, perhaps after the token that begins a text."""

    tokens: Int[Tensor, "batch pos"]
    seq_length: int
    """The length of one copy."""
    seed: int
    has_bos: bool
    shortened: str = ""
    """Why a copy is shorter than it would be by default."""

    @property
    def start(self) -> int:
        """The position at which the first copy begins."""
        return int(self.has_bos)

    def said(self) -> str:
        """Return the sentence on why sequences are short, or nothing."""
        return f"Sequences are {self.seq_length} tokens long, twice: {self.shortened}." if self.shortened else ""

    def to_dict(self) -> dict[str, Any]:
        """Return how they were drawn."""
        return {"n_sequences": len(self.tokens), "seq_length": self.seq_length, "seed": self.seed, "has_bos": self.has_bos}


def repeated_tokens(
    lm: LanguageModel | Transformer, *, n_sequences: int, seq_length: int | None = None, seed: int = 0, bos: bool | None = None
) -> RepeatedTokens:
    """Draw sequences of `seq_length` tokens without replacement, each followed by a copy of itself.

    Without a length it is 50, or the most that fits twice into `n_ctx` and that the tokenizer has tokens for. Special tokens, and ids
    that no token has, are never drawn. `bos` puts the token that begins a text first, None where the tokenizer's file says so. A model
    without a tokenizer has all its ids drawn. Raises ValueError for a length that does not fit.
    """
    model = model_of(lm)
    ids, first = _drawable(lm, bos)
    if n_sequences < 1:
        raise ValueError(f"{n_sequences} sequences were asked for; draw at least one")
    n_ctx = model.config.n_ctx
    room = (n_ctx - len(first)) // 2
    longest = min(room, len(ids))
    why = (
        f"no more fits the context of {n_ctx}"
        if room <= len(ids)
        else f"there are {len(ids)} tokens that are not special, and none is drawn twice"
    )
    if longest < _LEAST:
        raise ValueError(f"a sequence of at least {_LEAST} tokens that come twice cannot be drawn: {why}; use another model")
    if seq_length is not None and not _LEAST <= seq_length <= longest:
        raise ValueError(f"the sequence is to have {seq_length} tokens; expected {_LEAST} to {longest}, as {why}")
    length = seq_length or min(_SEQ_LENGTH, longest)
    generator = seeded_generator(seed)
    once = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:length]] for _ in range(n_sequences)])
    begin = torch.tensor(first, dtype=torch.long).expand(n_sequences, -1)
    return RepeatedTokens(
        tokens=torch.cat([begin, once, once], dim=1).to(model.embed.W_E.device),
        seq_length=length,
        seed=seed,
        has_bos=bool(first),
        shortened=why if seq_length is None and longest < _SEQ_LENGTH else "",
    )


def _drawable(lm: LanguageModel | Transformer, bos: bool | None) -> tuple[Int[Tensor, " id"], list[int]]:
    """Return the ids to draw from, and what every sequence begins with."""
    if isinstance(lm, Transformer) or isinstance(lm.tokenizer, NoTokenizer):
        if bos:
            raise ValueError("there is no tokenizer to say which token begins a text: leave out bos")
        config = lm.config
        return torch.arange(config.d_vocab), []
    tokenizer = lm.tokenizer
    left_out = {*tokenizer.special_tokens.values(), *tokenizer.unused_ids}
    ids = torch.tensor([token_id for token_id in range(tokenizer.d_vocab) if token_id not in left_out], dtype=torch.long)
    if not (tokenizer.adds_bos if bos is None else bos):
        return ids, []
    if tokenizer.bos is None:
        raise ValueError("the tokenizer has no token that begins a text: leave out bos")
    return ids, [tokenizer.bos]
