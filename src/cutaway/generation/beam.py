"""Beam search: the most likely continuation among those that stay near the top."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.generation.cached import CachedDecoder
from cutaway.generation.sampling import without
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Beam", "beam_search"]


@dataclass(frozen=True)
class Beam:
    """A continuation and the sum of its tokens' log-probabilities, in nats."""

    tokens: tuple[int, ...]
    log_prob: float

    def score(self, length_penalty: float) -> float:
        """Return `log_prob / length^length_penalty`, by which beams are compared."""
        return self.log_prob / float(max(len(self.tokens), 1) ** length_penalty)


def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    is_done: Callable[[tuple[int, ...]], bool] | None = None,
    never: Sequence[int] = (),
    tell: Callable[[str], None] = warnings.warn,
) -> list[Beam]:
    """Return up to `num_beams` continuations, best first.

    A continuation ends with the token after which `is_done(tokens)` holds; the ids in `never` are not chosen. At each step the
    `num_beams` likeliest extensions go on, while those that end are set aside; at the end all are compared by
    `log_prob / length^length_penalty`, so that above 0 longer ones lose less (Wu et al. 2016, equation 14, without its constants).
    With as many beams as there are continuations the search is exhaustive. Raises ValueError for fewer than one beam
    or than no new tokens, a length penalty that is no number, and an empty prompt.
    """
    if not isinstance(num_beams, int) or num_beams < 1:
        raise ValueError(f"num_beams is {num_beams}; expected a whole number of at least 1")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty is {length_penalty}; expected a number, 0 to compare sums alone")
    going, ended = [Beam((), 0.0)], list[Beam]()
    model = without_dropout(model)
    with torch.inference_mode():
        decoder = CachedDecoder(model, [prompt], max_new_tokens=max_new_tokens, tell=tell)
        for step in range(max_new_tokens):
            logits = decoder.read_prompts() if step == 0 else decoder.append([beam.tokens[-1] for beam in going])
            log_probs = without(logits, never).cpu().double().log_softmax(dim=-1)
            totals = log_probs + log_probs.new_tensor([[beam.log_prob] for beam in going])
            kept = list[tuple[int, Beam]]()
            for place, (row, token, total) in enumerate(_from_the_best(totals)):
                beam = Beam((*going[row].tokens, token), total)
                if not (is_done and is_done(beam.tokens)):
                    kept.append((row, beam))
                elif place < num_beams:
                    ended.append(beam)
                if len(kept) == num_beams:
                    break
            if not kept or _is_settled(ended, kept[0][1], num_beams, length_penalty, max_new_tokens):
                going = [beam for _, beam in kept]
                break
            decoder.select([row for row, _ in kept])
            going = [beam for _, beam in kept]
    return sorted(ended + going, key=lambda beam: beam.score(length_penalty), reverse=True)[:num_beams]


def _from_the_best(totals: Tensor) -> Iterator[tuple[int, int, float]]:
    """Yield row, token and value of the entries that are not -inf, the highest first."""
    n_taken, n_wanted = 0, 64
    while n_taken < totals.numel():  # a few at a time: sorting all is slow, and more than a few are hardly ever asked for
        best = totals.flatten().topk(min(n_wanted, totals.numel()))
        for value, index in zip(best.values[n_taken:].tolist(), best.indices[n_taken:].tolist(), strict=True):
            if value == -math.inf:
                return
            yield index // totals.shape[1], index % totals.shape[1], value
        n_taken, n_wanted = len(best.values), 8 * n_wanted


def _is_settled(ended: list[Beam], best: Beam, num_beams: int, length_penalty: float, max_length: int) -> bool:
    """Whether no beam still going can pass the worst of `num_beams` that ended: log-probabilities only fall."""
    if len(ended) < num_beams:
        return False
    length = max_length if length_penalty > 0 else len(best.tokens)
    highest = best.log_prob / float(length**length_penalty)
    return sorted((beam.score(length_penalty) for beam in ended), reverse=True)[num_beams - 1] >= highest
