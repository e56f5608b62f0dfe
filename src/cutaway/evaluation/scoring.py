"""The log-probability of continuations after a context: each context is read once, whatever the number of its continuations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Request", "Score", "Scores", "check_request", "default_n_batch_tokens", "score_batches", "score_continuations"]

_LOGITS_AT_ONCE = 2**24
"""Logits computed together: 64 MiB of float32, whatever the vocabulary."""


@dataclass(frozen=True)
class Request:
    """A context and the continuations to score after it, each on its own, as token ids."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Score:
    """What a model says of one continuation: each token's log-probability in nats, and whether each was the likeliest."""

    log_probs: tuple[float, ...]
    is_greedy: bool

    @cached_property
    def log_prob(self) -> float:
        """The sum over the tokens, in float64 without rounding on the way."""
        return math.fsum(self.log_probs)

    @property
    def n_tokens(self) -> int:
        """How many tokens the continuation has."""
        return len(self.log_probs)


@dataclass(frozen=True)
class Scores:
    """A score for each continuation of a request, and whether its context had to be cut on the left to fit `n_ctx`."""

    continuations: tuple[Score, ...]
    is_truncated: bool


def default_n_batch_tokens(model: Transformer) -> int:
    """Return how many tokens to read at once: on a CPU few, whose activations stay in its cache, on a GPU enough to fill it."""
    return 512 if model.embed.W_E.device.type == "cpu" else 2**14


def score_continuations(model: Transformer, requests: Sequence[Request], *, n_batch_tokens: int | None = None) -> list[Scores]:
    """Return the scores of every request in order; see `score_batches`."""
    found: dict[int, Scores] = {}
    for batch in score_batches(model, requests, n_batch_tokens=n_batch_tokens):
        found.update(batch)
    return [found[number] for number in range(len(requests))]


def score_batches(
    model: Transformer,
    requests: Sequence[Request],
    *,
    done: frozenset[int] = frozenset(),
    n_batch_tokens: int | None = None,
    part: slice = slice(None),
) -> Iterator[dict[int, Scores]]:
    """Yield scores by the request's number, a batch at a time, the longest requests first; `part` of the batches alone.

    A context and its continuations are one row of a batch: a continuation's positions follow the context's, and it sees the context
    and itself alone. Log-softmax is computed in the weights' dtype but at least in float32. A request that does not fit `n_ctx` is cut
    on the left, so that context and continuation without its last token fill it, as lm-evaluation-harness does. Batches hold about
    `n_batch_tokens` tokens, `default_n_batch_tokens` unless given, and depend on the requests alone: those that are all in `done` are
    passed over, so that an evaluation taken up again computes what one that never stopped would have. Raises ValueError for an empty
    context or continuation, a continuation of more than `n_ctx` tokens, and a model that does not predict its next token.
    """
    _check(model, requests)
    model = without_dropout(model)
    rows = [_rows(request, model.config.n_ctx) for request in requests]
    batches = [batch for batch in _batches(rows, n_batch_tokens or default_n_batch_tokens(model)) if not done.issuperset(batch)]
    for batch in batches[part]:
        with torch.inference_mode():  # not around the yield: whoever reads the scores keeps their own modes
            scored = iter(_score_rows(model, [row for number in batch for row in rows[number]]))
        yield {number: _scores(requests[number], rows[number], scored) for number in batch}


def _check(model: Transformer, requests: Sequence[Request]) -> None:
    config = model.config
    if not config.is_causal or config.d_vocab_out != config.d_vocab:
        raise ValueError(
            "this model does not predict the next token of its own vocabulary from those before it, so it has no score"
        )
    for number, request in enumerate(requests):
        try:
            check_request(request, config.n_ctx)
        except ValueError as error:
            raise ValueError(f"request {number}: {error}") from None


def check_request(request: Request, n_ctx: int) -> None:
    """Raise ValueError for an empty context or continuation, and for a continuation of more than `n_ctx` tokens."""
    if not request.context:
        raise ValueError("there is no context: give at least one token for the model to go on from")
    if not request.continuations or not all(request.continuations):
        raise ValueError("a continuation is empty: give at least one token to score")
    if (longest := max(map(len, request.continuations))) > n_ctx:
        raise ValueError(f"a continuation has {longest} tokens; the model reads n_ctx {n_ctx} at once")


@dataclass(frozen=True)
class _Row:
    """A context with some of the continuations after it: what the model reads, and which of its logits predict what."""

    tokens: list[int]
    positions: list[int]
    branch: list[int]
    """0 in the context, the continuation's number from 1 on after it."""
    reads: list[int]
    """The places in `tokens` whose logits are needed."""
    targets: list[int]
    """The tokens predicted, all continuations' one after the other."""
    targets_read: list[int]
    """For each target, which of `reads` predicts it."""
    continuations: list[tuple[int, ...]]
    is_truncated: bool


def _rows(request: Request, n_ctx: int) -> list[_Row]:
    """Return one row for all continuations, or several where the context must be cut differently; equal ones are read once."""
    by_context: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for continuation in dict.fromkeys(request.continuations):
        room = n_ctx + 1 - len(continuation)
        by_context.setdefault(request.context[-room:], []).append(continuation)
    return [
        _row(context, continuations, is_truncated=len(context) < len(request.context))
        for context, continuations in by_context.items()
    ]


def _row(context: tuple[int, ...], continuations: list[tuple[int, ...]], *, is_truncated: bool) -> _Row:
    n_context = len(context)
    tokens, positions, branch = list(context), list(range(n_context)), [0] * n_context
    reads, targets_read = [n_context - 1], []
    for number, continuation in enumerate(continuations, start=1):
        n_read = len(continuation) - 1  # what follows its last token is nobody's question
        targets_read += [0, *range(len(reads), len(reads) + n_read)]
        reads += range(len(tokens), len(tokens) + n_read)
        tokens += continuation[:-1]
        positions += range(n_context, n_context + n_read)
        branch += [number] * n_read
    targets = [token for continuation in continuations for token in continuation]
    return _Row(tokens, positions, branch, reads, targets, targets_read, continuations, is_truncated)


def _batches(rows: list[list[_Row]], n_batch_tokens: int) -> Iterator[list[int]]:
    """Yield numbers of requests of similar lengths, the longest first, so that little is filled up."""
    widths = [max(len(row.tokens) for row in of_request) for of_request in rows]
    batch: list[int] = []
    n_rows = 0
    for number in sorted(range(len(rows)), key=lambda number: -widths[number]):
        if batch and (n_rows + len(rows[number])) * widths[batch[0]] > n_batch_tokens:
            yield batch
            batch, n_rows = [], 0
        batch.append(number)
        n_rows += len(rows[number])
    if batch:
        yield batch


def _score_rows(model: Transformer, rows: list[_Row]) -> list[dict[tuple[int, ...], Score]]:
    """Return for each row the scores of its continuations."""
    width = max(len(row.tokens) for row in rows)
    resid = _read(model, rows, width).flatten(0, 1)  # (batch pos) d_model
    reads = [number * width + place for number, row in enumerate(rows) for place in row.reads]
    starts = accumulate((len(row.reads) for row in rows), initial=0)
    targets_read = [start + read for start, row in zip(starts, rows, strict=False) for read in row.targets_read]
    targets = [target for row in rows for target in row.targets]
    log_probs, is_greedy = _log_probs(model, resid[reads], targets_read, targets)
    scored, start = [], 0
    for row in rows:
        of_row = {}
        for continuation in row.continuations:
            end = start + len(continuation)
            of_row[continuation] = Score(tuple(log_probs[start:end]), all(is_greedy[start:end]))
            start = end
        scored.append(of_row)
    return scored


def _read(model: Transformer, rows: list[_Row], width: int) -> Float[Tensor, "batch pos d_model"]:
    """Carry rows, filled up on the right where nothing looks, through the blocks."""
    device = model.embed.W_E.device
    tokens = torch.tensor([row.tokens + [0] * (width - len(row.tokens)) for row in rows], device=device)
    if all(len(row.continuations) == 1 for row in rows):
        return model.run_blocks(model.embed(tokens), positions=torch.arange(width, device=device))
    positions = torch.tensor([row.positions + [0] * (width - len(row.tokens)) for row in rows], device=device)
    branch = torch.tensor([row.branch + [0] * (width - len(row.tokens)) for row in rows], device=device)
    return model.run_blocks(model.embed(tokens, positions), positions=positions, mask=_own_branch(branch))


def _own_branch(branch: Tensor) -> Bool[Tensor, "batch q_pos k_pos"]:
    """Return where a query may see a key as far as branches go: in the context, and in its own; causality takes away the rest."""
    q_branch, k_branch = branch[:, :, None], branch[:, None, :]
    return (k_branch == 0) | (k_branch == q_branch)


def _log_probs(
    model: Transformer, resid: Float[Tensor, "read d_model"], targets_read: list[int], targets: list[int]
) -> tuple[list[float], list[bool]]:
    """Return the log-probability of each target at its read, and whether no token was likelier; logits are computed in parts."""
    read_of, token = (torch.tensor(numbers, device=resid.device) for numbers in (targets_read, targets))
    log_probs = torch.empty(len(targets), dtype=torch.promote_types(resid.dtype, torch.float32), device=resid.device)
    is_greedy = torch.empty(len(targets), dtype=torch.bool, device=resid.device)
    n_at_once = max(1, _LOGITS_AT_ONCE // model.config.d_vocab)
    for start in range(0, len(resid), n_at_once):
        logits = model.unembed(resid[start : start + n_at_once]).to(log_probs.dtype)  # read d_vocab
        here = ((read_of >= start) & (read_of < start + n_at_once)).nonzero().squeeze(1)
        place = read_of[here] - start
        log_probs[here] = logits.log_softmax(dim=-1)[place, token[here]]
        is_greedy[here] = logits.argmax(dim=-1)[place] == token[here]
    return log_probs.tolist(), is_greedy.tolist()


def _scores(request: Request, rows: list[_Row], scored: Iterator[dict[tuple[int, ...], Score]]) -> Scores:
    """Take the next scores, one for each row of the request, and return them in the order of its continuations."""
    found = {continuation: score for _ in rows for continuation, score in next(scored).items()}
    return Scores(tuple(found[continuation] for continuation in request.continuations), any(row.is_truncated for row in rows))
