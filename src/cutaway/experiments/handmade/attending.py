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

__all__ = ["N_FAST", "Distractor", "QK", "previous", "slow_pairs", "match_earlier", "add_distractors"]

Distractor = Literal["first", "uniform", "current", "fixed", "previous", "duplicate"]
"""What a head outside the circuit attends to: the first token, all alike, its own position, one position drawn at random, the position
before, an earlier occurrence of its token."""


N_FAST = 5
"""How many of a head's pairs, the fastest, know in a rotary model how far a key is."""


class QK(NamedTuple):
    """What queries and keys read: a head's scores are `(q x_i) (k x_j)`, where in a rotary model pairs of rows turn on the way."""

    q: Float[Tensor, "n d_model"]
    k: Float[Tensor, "n d_model"]


def previous(bench: Workbench, at: Head, attention: float) -> QK:
    """Attend to the position before with exactly this weight, the others sharing the rest; in a rotary model the position itself."""
    if bench.config.position == "rotary":
        return _near(bench, at, attention, distance=1)
    pos, score = bench.read("pos"), _scores(bench, attention)
    return QK(q=torch.cat([score[1:, None] * pos[1:], torch.zeros_like(pos[:1])]), k=pos)


def _near(bench: Workbench, at: Head, attention: float, *, distance: Literal[0, 1]) -> QK:
    """Attend to the position itself or to the one before with this weight, and to the other of these two with the rest.

    Each fast pair scores cos(t (d - c)) for a key d positions before, where t is by how much it turns: together a hill with its top at
    c, between 0 and 1, so high that it sinks by the log odds from one of them to the other, and to nothing at 2 and beyond.
    """
    frequencies, centre = bench.frequencies(at)[:N_FAST], 0.35 + 0.3 * distance
    heights = [float((frequencies * (d - centre)).cos().sum()) for d in (distance, 1 - distance)]
    size = math.sqrt(math.log(odds(attention)) / (heights[0] - heights[1]))
    always = bench.read("token").sum(dim=0)  # 1 at every position, whatever its token
    angles = frequencies * centre
    q = size * torch.stack([torch.ones_like(angles), torch.zeros_like(angles)], dim=-1)
    k = size * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return QK(q.flatten()[:, None] * always, k.flatten()[:, None] * always)  # pair 2 d_model -> row d_model


def slow_pairs(bench: Workbench, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "width d_model"]:
    """Return rows as those of a rotary head's slowest pairs, one for each, which keep them apart wherever they stand."""
    pairs = rows.new_zeros(bench.width // 2, 2, rows.shape[-1])
    pairs[-len(rows) :, 0] = rows
    return pairs.flatten(0, 1)  # pair 2 d_model -> width d_model


def match_earlier(bench: Workbench, score: float) -> QK:
    """Score an earlier occurrence of the same token, and neither the token itself nor any other."""
    token, pos = bench.read("token"), bench.read("pos")
    return QK(q=score * torch.cat([token, -pos]), k=torch.cat([token, pos]))


def _scores(bench: Workbench, attention: float) -> Float[Tensor, " pos"]:
    """Return for each query the score that gives one key this weight when the `i` others that position i sees score 0."""
    return torch.tensor([math.log(odds(attention) * max(i, 1)) for i in range(bench.config.n_ctx)], dtype=torch.float64)


def _distractor_qk(bench: Workbench, at: Head, kind: Distractor, attention: float) -> QK:
    if bench.config.position == "rotary":
        match kind:
            case "previous" | "current":
                return _near(bench, at, attention, distance=1 if kind == "previous" else 0)
            case "uniform":
                nothing = torch.zeros(1, bench.config.d_model, dtype=torch.float64)
                return QK(nothing, nothing)
        raise ValueError(f"a rotary head made by hand does not attend to {kind!r}; give some of uniform, current, previous")
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
            return previous(bench, at, attention)
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
    n_read = min(bench.width, aside.shape[1])
    for head, kind in heads.items():
        columns = torch.linalg.qr(bench.draw(len(stream), n_read)).Q
        mixed = torch.linalg.qr(bench.draw(aside.shape[1], n_read)).Q
        bench.set_head(head, **_distractor_qk(bench, head, kind, attention)._asdict(), v=1.5 * columns.T @ stream, o=aside @ mixed)
    return heads
