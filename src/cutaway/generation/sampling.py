"""From logits to the next token: how a distribution is shaped, and how a token is drawn from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.runtime import seeded_generator
from cutaway.values import check_types

__all__ = ["Sampling", "SAMPLING_PRESETS", "shaped_log_probs", "without", "RowStreams", "draw"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token; the steps apply in the order of the fields, and None leaves a step out.

    Raises ValueError for values outside their ranges.
    """

    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred are made less likely (Keskar et al. 2019, section 4.1)."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Keeps the k most likely tokens (Fan et al. 2018)."""
    top_p: float | None = None
    """Keeps the fewest tokens whose probabilities reach p together (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Keeps tokens at least this fraction as likely as the most likely one (Nguyen et al. 2024)."""

    def __post_init__(self) -> None:
        check_types(self)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; expected 0 (the most likely token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected at least 1, or None for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; expected between 0 and 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; expected more than 0, 1 for none")

    @classmethod
    def of(cls, preset: str, **changes: float | None) -> Self:
        """Return a preset (precise, balanced, creative) with those of `changes` that are not None."""
        if preset not in SAMPLING_PRESETS:
            raise ValueError(f"there is no sampling preset {preset!r}; there are {', '.join(SAMPLING_PRESETS)}")
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(**{**asdict(SAMPLING_PRESETS[preset]), **given})


SAMPLING_PRESETS: dict[str, Sampling] = {
    "precise": Sampling(temperature=0.3, top_p=0.9),
    "balanced": Sampling(temperature=0.8, top_p=0.95),
    "creative": Sampling(temperature=1.1, min_p=0.05),
}


def shaped_log_probs(
    logits: Float[Tensor, "batch d_vocab"], sampling: Sampling, *, seen: Sequence[Sequence[int]]
) -> Float[Tensor, "batch d_vocab"]:
    """Return the log-probabilities to draw from, float64 on the CPU, -inf for those left out; `seen` holds each row's tokens."""
    logits = logits.cpu().double()  # where every device continues alike, and Apple's has no float64
    if sampling.repetition_penalty != 1.0:
        logits = _penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -math.inf).scatter(-1, best, 0.0)
    logits = (logits - logits.max(dim=-1, keepdim=True).values) / sampling.temperature  # from 0 down: nothing overflows upwards
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        top = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, -math.inf).scatter(-1, top.indices, top.values)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    if sampling.min_p:
        floor = logits.max(dim=-1, keepdim=True).values + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return logits.log_softmax(dim=-1)


def without(logits: Float[Tensor, "batch d_vocab"], ids: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
    """Return logits with which these ids are never chosen."""
    if not ids:
        return logits
    return logits.index_fill(-1, torch.tensor(ids, device=logits.device), -math.inf)


def _penalised(logits: Tensor, seen: Sequence[Sequence[int]], penalty: float) -> Tensor:
    logits = logits.clone()
    for row, tokens in enumerate(seen):
        choosable = sorted(token for token in set(tokens) if token < logits.shape[-1])
        ids = torch.tensor(choosable, dtype=torch.long, device=logits.device)
        scores = logits[row, ids]
        logits[row, ids] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    is_reached = probs.cumsum(dim=-1) - probs >= top_p  # by the tokens before: the first is never left out
    return torch.full_like(logits, -math.inf).scatter(-1, order, ordered.masked_fill(is_reached, -math.inf))


class RowStreams:
    """One stream of random numbers for each row of a batch, so that no row depends on its batch mates.

    A row's stream follows from the seed and its own prompt; rows with equal prompts, which would repeat each other, are told apart by
    how many such rows come before.
    """

    def __init__(self, seed: int, prompts: Sequence[Hashable]) -> None:
        counts: dict[Hashable, int] = {}
        self._generators = []
        for prompt in prompts:
            repeat = counts[prompt] = counts.get(prompt, -1) + 1
            digest = hashlib.sha256(f"{seed}:{repeat}:{prompt}".encode()).digest()
            self._generators.append(seeded_generator(int.from_bytes(digest[:8], "little") >> 1))

    def uniforms(self, rows: Sequence[int] | None = None) -> Float[Tensor, " batch"]:
        """Draw one number in [0, 1) for each row, or each of `rows`, float64."""
        generators = self._generators if rows is None else [self._generators[row] for row in rows]
        return torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])


def draw(log_probs: Float[Tensor, "batch d_vocab"], uniforms: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return the token where each row's cumulative probability passes its uniform number."""
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    threshold = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
