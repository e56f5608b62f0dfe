"""Ways to attend, as the rows that a head's queries and keys read; and heads that attend so for nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.experiments.handmade.circuit import Head
from cutaway.experiments.handmade.workbench import Workbench, odds

__all__ = ["Distractor", "QK", "previous", "match_earlier", "add_distractors"]

Distractor = Literal["first", "uniform", "current", "fixed", "previous", "duplicate"]
"""What a head outside the circuit attends to: the first token, all alike, its own position, one position drawn at random, the position
before, an earlier occurrence of its token."""


class QK(NamedTuple):
    """What queries and keys read: a head's scores are `(q x_i) (k x_j)`."""

    q: Float[Tensor, "n d_model"]
    k: Float[Tensor, "n d_model"]


def previous(bench: Workbench, attention: float) -> QK:
    """Attend to the position before with exactly this weight, the others sharing the rest."""
    pos, score = bench.read("pos"), _scores(bench, attention)
    return QK(q=torch.cat([score[1:, None] * pos[1:], torch.zeros_like(pos[:1])]), k=pos)


def match_earlier(bench: Workbench, score: float) -> QK:
    """Score an earlier occurrence of the same token, and neither the token itself nor any other."""
    token, pos = bench.read("token"), bench.read("pos")
    return QK(q=score * torch.cat([token, -pos]), k=torch.cat([token, pos]))


def _scores(bench: Workbench, attention: float) -> Float[Tensor, " pos"]:
    """Return for each query the score that gives one key this weight when the `i` others that position i sees score 0."""
    return torch.tensor([math.log(odds(attention) * max(i, 1)) for i in range(bench.config.n_ctx)], dtype=torch.float64)


def _distractor_qk(bench: Workbench, kind: Distractor, attention: float) -> QK:
    pos, score = bench.read("pos"), _scores(bench, attention)
    everywhere = score[None] @ pos  # a query that each position makes as strong as it needs
    match kind:
        case "first":
            return QK(everywhere, pos[:1])
        case "fixed":
            key = int(torch.randint(2, 6, (1,), generator=bench.generator))
            return QK(everywhere, pos[key : key + 1])
        case "uniform":
            return QK(everywhere, pos.sum(dim=0, keepdim=True))
        case "current":
            return QK(score[:, None] * pos, pos)
        case "previous":
            return previous(bench, attention)
        case "duplicate":
            return match_earlier(bench, float(score[-1]))


def add_distractors(bench: Workbench, kinds: Sequence[Distractor], attention: float) -> Mapping[Head, str]:
    """Give every head that is left one of these kinds, in turn; each reads the whole stream and writes it aside.

    Raises ValueError for a kind that there is not.
    """
    if not kinds or (unknown := sorted(set(kinds) - set(get_args(Distractor)))):
        given = ", ".join(map(repr, unknown)) if kinds else "nothing"
        raise ValueError(f"distractors holds {given}; give at least one of {', '.join(get_args(Distractor))}")
    heads = {head: kinds[i % len(kinds)] for i, head in enumerate(bench.free_heads())}
    stream, aside = bench.read_stream(), bench.write_aside()
    n_read = min(bench.config.d_head, aside.shape[1])
    for head, kind in heads.items():
        columns = torch.linalg.qr(bench.draw(len(stream), n_read)).Q
        mixed = torch.linalg.qr(bench.draw(aside.shape[1], n_read)).Q
        bench.set_head(head, **_distractor_qk(bench, kind, attention)._asdict(), v=1.5 * columns.T @ stream, o=aside @ mixed)
    return heads
