"""Beam search: the most likely continuation among those that stay near the top."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cutaway.generation.cached import CachedDecoder
from cutaway.generation.sampling import without
from cutaway.model import Transformer
from cutaway.runtime import evaluating

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
    stop_ids: Collection[int] = (),
    n_ids: int | None = None,
    never: Collection[int] = (),
) -> list[Beam]:
    """Return up to `num_beams` continuations, best first; one that ends with a stop id keeps it.

    At each step the `num_beams` likeliest extensions go on, while those that end are set aside; at the end all are compared by
    `log_prob / length^length_penalty`, so that above 0 longer ones lose less (Wu et al. 2016, equation 14, without its constants).
    With as many beams as there are continuations the search is exhaustive. Raises ValueError for fewer than one beam
    or than no new tokens, and for an empty prompt.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams is {num_beams}; expected at least 1")
    going, ended = [Beam((), 0.0)], list[Beam]()
    with evaluating(model):
        decoder = CachedDecoder(model, [prompt], max_new_tokens=max_new_tokens)
        for step in range(max_new_tokens):
            logits = decoder.read_prompts() if step == 0 else decoder.append([beam.tokens[-1] for beam in going])
            log_probs = without(logits[:, :n_ids], tuple(never)).cpu().double().log_softmax(dim=-1)
            totals = log_probs + log_probs.new_tensor([[beam.log_prob] for beam in going])
            n_candidates = min(num_beams * (1 + len(stop_ids)), totals.numel())  # enough to fill the beams if all others end
            best = totals.flatten().topk(n_candidates)
            candidates = [
                (int(index) // totals.shape[1], int(index) % totals.shape[1], total)
                for total, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            extended = [(row, Beam((*going[row].tokens, token), total)) for row, token, total in candidates]
            ended += [beam for _, beam in extended[:num_beams] if beam.tokens[-1] in stop_ids]
            kept = [(row, beam) for row, beam in extended if beam.tokens[-1] not in stop_ids][:num_beams]
            if not kept or _is_settled(ended, kept[0][1], num_beams, length_penalty, max_new_tokens):
                going = [beam for _, beam in kept]
                break
            decoder.select([row for row, _ in kept])
            going = [beam for _, beam in kept]
    return sorted(ended + going, key=lambda beam: beam.score(length_penalty), reverse=True)[:num_beams]


def _is_settled(ended: list[Beam], best: Beam, num_beams: int, length_penalty: float, max_length: int) -> bool:
    """Whether no beam still going can pass the worst of `num_beams` that ended: log-probabilities only fall."""
    if len(ended) < num_beams:
        return False
    length = max_length if length_penalty > 0 else len(best.tokens)
    highest = best.log_prob / float(length**length_penalty)
    return sorted((beam.score(length_penalty) for beam in ended), reverse=True)[num_beams - 1] >= highest
