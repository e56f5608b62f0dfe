"""A rule with an exception that one neuron knows."""

from __future__ import annotations

import string

import torch
from torch import Tensor

from cutaway.experiments.handmade.attending import add_distractors, previous
from cutaway.experiments.handmade.circuit import Circuit, Edge, Handmade, Head, Neuron
from cutaway.experiments.handmade.prompts import PromptPair, draw, draw_prompts
from cutaway.experiments.handmade.workbench import Workbench, make_generator
from cutaway.tokenizers import CharTokenizer

__all__ = ["neuron"]

_LETTERS, _N_CTX, _N_POS, _D_MLP = string.ascii_lowercase, 24, 12, 24
_TRIGGER, _RULE, _CONTEXT, _EXCEPTION = "q", "u", "a", "s"


def neuron(*, attention: float = 0.95, n_heads: int = 4, n_prompts: int = 16, seed: int = 0, is_rotated: bool = True) -> Handmade:
    """Build a model that says `u` after `q`, but `s` after `aq`: one neuron of layer 1 fires for `q` with an `a` before it.

    The embedding of `q` itself says `u`. A previous-token head in layer 0 attends with weight `attention`, exactly, and writes what
    came before; the neuron reads both and outweighs the rule. Prompts end in `aq`; corrupted ones in `q` with another letter before
    it. All other neurons, of both layers, respond to everything and write aside.
    """
    spaces = {"token": 26, "prev": 26, "out": 26, "pos": _N_CTX}
    bench = Workbench(
        spaces, n_layers=2, n_heads=n_heads, width=26, n_ctx=_N_CTX, d_mlp=_D_MLP, act="relu", position="learned", seed=seed,
        is_rotated=is_rotated,
    )  # fmt: skip
    before = bench.take_head(0)
    knows = Neuron(1, int(torch.randint(_D_MLP, (1,), generator=make_generator(seed, "neuron"))))
    bench.set_head(before, **previous(bench, before, attention)._asdict(), v=bench.read("token"), o=bench.write("prev"))
    others = add_distractors(bench, ("first", "uniform", "current", "fixed"), attention)
    bench.set_neurons_aside()
    trigger, rule, context, exception = (_LETTERS.index(letter) for letter in (_TRIGGER, _RULE, _CONTEXT, _EXCEPTION))
    out = bench.write("out")
    bench.model.embed.W_E[trigger] += out[:, rule]
    mlp = bench.mlp(knows.layer)
    # 1 for the letter and `attention` for the one before; above the threshold by attention / 2 with both, below it with either alone.
    mlp.W_in.weight[knows.index] = bench.read("token")[trigger] + bench.read("prev")[context]
    mlp.W_in.bias[knows.index] = -(1 + attention / 2)
    mlp.W_out.weight[:, knows.index] = 2 / (attention / 2) * out[:, exception]
    tokenizer = CharTokenizer(_LETTERS)
    prompts = draw_prompts(_draw_pair, tokenizer, n_prompts, make_generator(seed, "prompts"))
    last = torch.full_like(prompts.answers, _N_POS - 1)
    positions: dict[Head | Neuron, Tensor] = {before: last, knows: last}
    edges = {
        Edge("pos_embed", before, "q"),
        Edge("pos_embed", before, "k"),
        Edge("embed", before, "v"),
        Edge(before, knows, "mlp"),
        Edge("embed", knows, "mlp"),
        Edge(knows, "logits", "logits"),
        Edge("embed", "logits", "logits"),
    }
    return Handmade(
        name="neuron",
        model=bench.finished(),
        tokenizer=tokenizer,
        circuit=Circuit(heads={before: "previous token"}, neurons={knows: "exception"}, edges=frozenset(edges)),
        distractors=others,
        **prompts.asked(),
        positions=positions,
        corrupted_positions=positions,
        sources={before: last - 1},
        attention=attention,
        leak=0.0,
        carrying=frozenset({Edge("embed", before, "v"), Edge(before, knows, "mlp"), Edge(knows, "logits", "logits")}),
    )


def _draw_pair(generator: torch.Generator) -> PromptPair:
    """Draw prompts of letters of no meaning, which end in the trigger, with or without its context."""
    ordinary = [letter for letter in _LETTERS if letter not in (_TRIGGER, _RULE, _CONTEXT, _EXCEPTION)]
    clean = "".join([*draw(ordinary, _N_POS - 2, generator), _CONTEXT, _TRIGGER])
    corrupted = "".join([*draw(ordinary, _N_POS - 1, generator), _TRIGGER])
    return PromptPair(clean, corrupted, _EXCEPTION, _RULE, places=())
