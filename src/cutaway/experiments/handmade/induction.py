"""Induction: what followed this token last time follows it again."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.config import Norm, Position
from cutaway.experiments.handmade.attending import Distractor, add_distractors, previous, slow_pairs
from cutaway.experiments.handmade.circuit import Circuit, Edge, Handmade, Head
from cutaway.experiments.handmade.prompts import PromptPair, draw, draw_prompts
from cutaway.experiments.handmade.workbench import LOGIT_SCALE, Workbench, make_generator, odds
from cutaway.tokenizers import CharTokenizer

__all__ = ["induction"]

_LETTERS, _N_CTX, _N_POS = string.ascii_lowercase, 40, 20
_ROTARY_WIDTH = 128
"""64 pairs: the fastest turn by a radian a position, the 26 slowest by a hundredth of one at most in the whole context."""
_DISTRACTORS: tuple[Distractor, ...] = ("first", "uniform", "current", "fixed")
_ROTARY_DISTRACTORS: tuple[Distractor, ...] = ("uniform", "current", "previous")


def induction(
    *,
    attention: float = 0.95,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    d_mlp: int = 0,
    norm: Norm = "none",
    position: Position = "attention_only",
    distractors: Sequence[Distractor] | None = None,
    n_prompts: int = 16,
    seed: int = 0,
    is_rotated: bool = True,
) -> Handmade:
    """Build a previous-token head in layer 0 whose output the keys of an induction head in layer 1 read, and nothing else of use.

    The prompts are distinct letters but for the last, which was there before: `"..ab....cd....a"` is followed by `b`; corrupted,
    `"..cb....ad....a"`, by `d`. `attention` is the previous-token head's, exactly, and the least of the induction head's. An MLP, and
    all other heads, write aside. Any sequence of lower-case letters is a prompt, repeated random ones too. With `n_kv_heads` heads
    share keys and values, those of the circuit too. With rotary positions the previous-token head knows the position before by pairs
    that turn fast, and the induction head compares letters by pairs that turn slowly; where it stands itself no head knows.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Induction Heads".
    """
    if n_layers < 2 or position not in ("attention_only", "learned", "rotary"):
        raise ValueError(
            f"n_layers is {n_layers} and position {position!r}; an induction circuit made by hand takes at least 2 layers, and "
            "positions that are attention_only, learned or rotary"
        )
    is_rotary = position == "rotary"
    spaces = {"token": 26, "prev": 26, "out": 26, **({} if is_rotary else {"pos": _N_CTX})}
    bench = Workbench(
        spaces, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, width=_ROTARY_WIDTH if is_rotary else 2 * _N_CTX,
        n_ctx=_N_CTX, d_mlp=d_mlp, act="gelu_new", norm=norm, position=position, seed=seed, is_rotated=is_rotated,
    )  # fmt: skip
    before, inducing = bench.take_head(0), bench.take_head(1)
    scores = _wire_rotary(bench, before, inducing, attention) if is_rotary else _wire(bench, before, inducing, attention)
    usual = _ROTARY_DISTRACTORS if is_rotary else _DISTRACTORS
    others = add_distractors(bench, usual if distractors is None else distractors, attention)
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
        circuit=_circuit(before, inducing, is_rotary=is_rotary),
        distractors=others,
        **prompts.asked(),
        positions={before: after, inducing: end},
        corrupted_positions={before: after_corrupted, inducing: end},
        sources={before: after - 1, inducing: after},
        attention=attention,
        carrying=frozenset({Edge("embed", before, "v"), Edge(before, inducing, "k"), Edge(inducing, "logits", "logits")}),
        leak=_leak(bench, *scores, attention, tokens=torch.cat([prompts.tokens, prompts.corrupted_tokens])),
    )


def _wire(bench: Workbench, before: Head, inducing: Head, attention: float) -> tuple[float, float]:
    """Set the two heads, and return how high the first scores at most, and by how much the second scores its token above others."""
    token, pos = bench.read("token"), bench.read("pos")
    bench.set_head(before, **previous(bench, before, attention)._asdict(), v=token, o=bench.write("prev"))
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
    return math.log(odds(attention) * bench.config.n_ctx), score


def _wire_rotary(bench: Workbench, before: Head, inducing: Head, attention: float) -> tuple[float, float]:
    """Set the two heads of a rotary model, and return the same.

    A key of the induction head holds the token before less its own, so that position 0, which has only itself before it, holds nothing.
    """
    token, looking = bench.read("token"), previous(bench, before, attention)
    bench.set_head(before, **looking._asdict(), v=token, o=bench.write("prev"))
    turned = float(bench.frequencies(inducing)[-len(token)]) * (bench.config.n_ctx - 1)  # the most that a letter's pair turns
    score = math.log(odds(attention) * (bench.config.n_ctx - 1)) / (attention * math.cos(turned))
    bench.set_head(
        inducing,
        q=slow_pairs(bench, score * token),
        k=slow_pairs(bench, bench.read("prev") - token),
        v=token,
        o=bench.write("out"),
    )
    always = token.sum(dim=0)
    return float((looking.q @ always).norm() * (looking.k @ always).norm() / always.square().sum() ** 2), score


def _circuit(before: Head, inducing: Head, *, is_rotary: bool) -> Circuit:
    edges = {
        Edge("embed", before, "v"),
        Edge("embed", inducing, "q"),
        Edge(before, inducing, "k"),
        Edge("embed", inducing, "v"),
        Edge(inducing, "logits", "logits"),
    }
    if is_rotary:  # what does not depend on the token comes with it
        edges |= {Edge("embed", before, "q"), Edge("embed", before, "k"), Edge("embed", inducing, "k")}
    else:
        edges |= {Edge("pos_embed", before, "q"), Edge("pos_embed", before, "k")}
        edges |= {Edge("pos_embed", inducing, "q"), Edge("pos_embed", inducing, "k")}  # for position 0 alone
    return Circuit(heads={before: "previous token", inducing: "induction"}, neurons={}, edges=frozenset(edges))


def _leak(bench: Workbench, score_before: float, score: float, attention: float, *, tokens: Tensor) -> float:
    """Bound what the norms let through, when each may scale what it hands on by 1 - e to 1.

    Scores that change by d change a pattern by at most 2 d, summed over keys; one of which a key has a, by at most 4 (1 - a) d, where
    a may have fallen to odds of e^(2 d) less. So the previous-token head's output changes by e, and, where positions pass a norm, by
    what its scores' 2 e make of its pattern; the induction head's scores by its key's change and 2 e more (and as much again for
    position 0, or for the token itself); its output by twice that and e; the logits by that and e.
    """
    slack, passes_norm = bench.norm_slack(tokens), not bench.is_offset
    moved = 2 * slack * score_before * passes_norm
    before = slack + 4 * (1 - attention) * math.exp(2 * moved) * moved
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
