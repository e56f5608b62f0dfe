"""Induction: what followed this token last time follows it again."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.config import Norm, Position
from cutaway.experiments.handmade.attending import Distractor, add_distractors, previous
from cutaway.experiments.handmade.circuit import Circuit, Edge, Handmade, Head
from cutaway.experiments.handmade.prompts import PromptPair, draw, draw_prompts
from cutaway.experiments.handmade.workbench import LOGIT_SCALE, Workbench, make_generator, odds
from cutaway.tokenizers import CharTokenizer

__all__ = ["induction"]

_LETTERS, _N_CTX, _N_POS = string.ascii_lowercase, 40, 20


def induction(
    *,
    attention: float = 0.95,
    n_layers: int = 2,
    n_heads: int = 4,
    d_mlp: int = 0,
    norm: Norm = "none",
    position: Position = "attention_only",
    distractors: Sequence[Distractor] = ("first", "uniform", "current", "fixed"),
    n_prompts: int = 16,
    seed: int = 0,
    is_rotated: bool = True,
) -> Handmade:
    """Build a previous-token head in layer 0 whose output the keys of an induction head in layer 1 read, and nothing else of use.

    The prompts are distinct letters but for the last, which was there before: `"..ab....cd....a"` is followed by `b`; corrupted,
    `"..cb....ad....a"`, by `d`. `attention` is the previous-token head's, exactly, and the least of the induction head's. An MLP, and
    all other heads, write aside. Any sequence of lower-case letters is a prompt, repeated random ones too.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Induction Heads".
    """
    if n_layers < 2 or position not in ("attention_only", "learned"):
        raise ValueError(
            f"n_layers is {n_layers} and position {position!r}; an induction circuit made by hand takes at least 2 layers, and "
            "positions that are attention_only or learned"
        )
    spaces = {"token": 26, "prev": 26, "out": 26, "pos": _N_CTX}
    bench = Workbench(
        spaces, n_layers=n_layers, n_heads=n_heads, d_head=2 * _N_CTX, d_mlp=d_mlp, act="gelu_new", norm=norm,
        position=position, seed=seed, is_rotated=is_rotated,
    )  # fmt: skip
    before, inducing = bench.take_head(0), bench.take_head(1)
    score = _wire(bench, before, inducing, attention)
    others = add_distractors(bench, distractors, attention)
    if d_mlp:
        bench.set_neurons_aside()
    tokenizer = CharTokenizer(_LETTERS)
    prompts = draw_prompts(_draw_pair, tokenizer, n_prompts, make_generator(seed, "prompts"))
    after, after_corrupted = prompts.places.unbind(dim=1)
    end = torch.full_like(after, _N_POS - 1)
    return Handmade(
        name="induction",
        model=bench.finished(),
        tokenizer=tokenizer,
        circuit=_circuit(before, inducing),
        distractors=others,
        tokens=prompts.tokens,
        corrupted_tokens=prompts.corrupted_tokens,
        answers=prompts.answers,
        wrong_answers=prompts.wrong_answers,
        positions={before: after, inducing: end},
        corrupted_positions={before: after_corrupted, inducing: end},
        sources={before: after - 1, inducing: after},
        attention=attention,
        leak=_leak(bench, score, attention, tokens=torch.cat([prompts.tokens, prompts.corrupted_tokens])),
    )


def _wire(bench: Workbench, before: Head, inducing: Head, attention: float) -> float:
    """Set the two heads, and return by how much the induction head scores its token above others."""
    token, pos = bench.read("token"), bench.read("pos")
    bench.set_head(before, **previous(bench, attention)._asdict(), v=token, o=bench.write("prev"))
    # The key after an earlier occurrence holds the token with weight `attention`; later ones with at most (1 - attention) / 2.
    margin = attention - (1 - attention) / 2
    score = math.log(odds(attention) * (bench.config.n_ctx - 1)) / margin
    bench.set_head(
        inducing,
        q=score * torch.cat([token, pos.sum(dim=0, keepdim=True)]),
        k=torch.cat([bench.read("prev"), -pos[:1]]),  # position 0 has only itself before it, and must not look like a successor
        v=token,
        o=bench.write("out"),
    )
    return score


def _circuit(before: Head, inducing: Head) -> Circuit:
    return Circuit(
        heads={before: "previous token", inducing: "induction"},
        neurons={},
        edges=frozenset(
            {
                Edge("pos_embed", before, "q"),
                Edge("pos_embed", before, "k"),
                Edge("embed", before, "v"),
                Edge("embed", inducing, "q"),
                Edge("pos_embed", inducing, "q"),  # these two for position 0 alone
                Edge("pos_embed", inducing, "k"),
                Edge(before, inducing, "k"),
                Edge("embed", inducing, "v"),
                Edge(inducing, "logits", "logits"),
            }
        ),
    )


def _leak(bench: Workbench, score: float, attention: float, *, tokens: Tensor) -> float:
    """Bound what the norms let through, when each may scale what it hands on by 1 - e to 1.

    Scores that change by d change a pattern by at most 2 d, summed over keys. So the previous-token head's output changes by e, and by
    twice its scores' 2 e log(odds n) where positions pass a norm; the induction head's scores by its key's change and 2 e more (and as
    much again for position 0); its output by twice that and e; the logits by that and e.
    """
    slack, passes_norm = bench.norm_slack(tokens), not bench.is_offset
    before = slack * (1 + 4 * math.log(odds(attention) * bench.config.n_ctx) * passes_norm)
    scores = score * (before + 2 * slack + 2 * slack * passes_norm)
    return LOGIT_SCALE * (2 * slack + 2 * scores)


def _draw_pair(generator: torch.Generator) -> PromptPair:
    """Draw prompts with the answer after what is also the last letter, and the wrong answer after another; where these two stand."""
    first, answer, other, wrong = pairs = draw(_LETTERS, 4, generator)
    starts = [1 + 2 * int(i) for i in torch.randperm((_N_POS - 2) // 2, generator=generator)[:2]]
    rest = [letter for letter in _LETTERS if letter not in pairs]

    def text(*tokens: str) -> str:
        letters = draw(rest, _N_POS - 1, generator)
        for start, token, follower in zip(starts, tokens, (answer, wrong), strict=True):
            letters[start : start + 2] = token, follower
        return "".join([*letters, first])

    return PromptPair(text(first, other), text(other, first), answer, wrong, places=(starts[0] + 1, starts[1] + 1))
