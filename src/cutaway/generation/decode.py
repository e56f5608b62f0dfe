"""Decoding: read, choose, append, until every row is done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch

from cutaway.generation.cached import CachedDecoder
from cutaway.generation.compiled import CompiledDecoder
from cutaway.generation.sampling import RowStreams, Sampling, draw, shaped_log_probs, without
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["decode"]


def decode(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    never: Sequence[int] = (),
    is_done: Callable[[int, int], bool] | None = None,
    tell: Callable[[str], None] = warnings.warn,
    compile: bool = False,
) -> Iterator[list[tuple[int, int]]]:
    """Yield at each step the rows still going, each with its new token, as (row, token).

    A row ends after the token for which `is_done(row, token)` holds; the ids in `never` are not chosen. What a row gets does not
    depend on the other rows. `tell` hears once of anything that changes the cost. Raises ValueError for `compile` with several prompts.
    """
    make_decoder = CompiledDecoder if compile else CachedDecoder
    decoder = make_decoder(without_dropout(model), prompts, max_new_tokens=max_new_tokens, tell=tell)
    streams = RowStreams(seed, [tuple(prompt) for prompt in prompts])
    going, tokens = list(range(len(prompts))), list[int]()  # the rows that the decoder holds, and what each got last
    for step in range(max_new_tokens):
        with torch.inference_mode():  # not around the yield: whoever reads the tokens keeps their own modes
            logits = decoder.read_prompts() if step == 0 else decoder.append(tokens)
            log_probs = shaped_log_probs(without(logits, never), sampling, seen=decoder.rows)
            tokens = draw(log_probs, streams.uniforms(going)).tolist()
        chosen = list(zip(going, tokens, strict=True))
        kept = [place for place, (row, token) in enumerate(chosen) if not (is_done and is_done(row, token))]
        yield chosen
        if not kept:
            return
        if len(kept) < len(going):  # rows that ended cost nothing more
            decoder.select(kept)
            going, tokens = [going[place] for place in kept], [tokens[place] for place in kept]
