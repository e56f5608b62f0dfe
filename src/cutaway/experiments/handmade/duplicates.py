"""Circuits that begin with a duplicate-token head: copying the token that came twice, and naming the one that did not."""

from __future__ import annotations

import math
import string

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.experiments.handmade.attending import Distractor, add_distractors, match_earlier
from cutaway.experiments.handmade.circuit import Circuit, Edge, Handmade, Head, Neuron
from cutaway.experiments.handmade.prompts import PromptPair, draw, draw_prompts
from cutaway.experiments.handmade.workbench import Workbench, make_generator, odds
from cutaway.tokenizers import CharTokenizer

__all__ = ["copying", "indirect_object"]

_BEGIN, _END = "^", "?"
_NAMES, _OTHERS = string.ascii_uppercase[:8], string.ascii_lowercase[:16]
_N_CTX, _N_POS = 24, 16
_KINDS: tuple[Distractor, ...] = ("uniform", "current", "fixed", "previous")


def copying(
    *,
    attention: float = 0.95,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    n_prompts: int = 16,
    seed: int = 0,
    is_rotated: bool = True,
) -> Handmade:
    """Build a duplicate-token head in layer 0 whose output the keys of a copying head in layer 1 read, and nothing else of use.

    A prompt begins with `^`, holds one letter twice, and ends with `?`, after which the model says that letter: `"^..a..b..a..c..?"`,
    with `c` in the place of the first `a` when corrupted. Both heads attend with weight `attention` at least.
    """
    tokenizer = CharTokenizer(_BEGIN + _END + _OTHERS)
    bench = _bench(tokenizer, ("duplicate",), n_layers=2, n_heads=n_heads, n_kv_heads=n_kv_heads, seed=seed, is_rotated=is_rotated)
    duplicate, mover = bench.take_head(0), bench.take_head(1)
    _wire_duplicate(bench, tokenizer, duplicate, attention, _OTHERS)
    letters = _one_hot(tokenizer, _OTHERS) @ bench.read("token")
    bench.set_head(mover, **_find_duplicate(bench, tokenizer, attention), v=letters, o=_copy(bench, tokenizer, _OTHERS))
    others = add_distractors(bench, _KINDS, attention)
    prompts = draw_prompts(_draw_copying, tokenizer, n_prompts, make_generator(seed, "prompts"))
    earlier, later, later_corrupted = prompts.places.unbind(dim=1)
    end = torch.full_like(later, _N_POS - 1)
    return Handmade(
        name="copying",
        model=bench.finished(),
        tokenizer=tokenizer,
        circuit=_copying_circuit(duplicate, mover),
        distractors=others,
        **prompts.asked(),
        positions={duplicate: later, mover: end},
        corrupted_positions={duplicate: later_corrupted, mover: end},
        sources={duplicate: earlier, mover: later},
        attention=attention,
        leak=0.0,
        carrying=frozenset(
            {
                Edge("embed", duplicate, "q"),  # letters of the corrupted prompt that come twice among the clean one's
                Edge("embed", duplicate, "k"),
                Edge(duplicate, mover, "k"),
                Edge(mover, "logits", "logits"),
            }
        ),
    )


def indirect_object(
    *,
    attention: float = 0.95,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    n_prompts: int = 16,
    seed: int = 0,
    is_rotated: bool = True,
) -> Handmade:
    """Build three heads in three layers that say which of two names did not come twice, and nothing else of use.

    A prompt begins with `^`, holds two names (capitals), one of them again, and ends with `?`: `"^..A..B..A..?"` is followed by `B`;
    corrupted, the second `A` is a `B`. A duplicate-token head writes at the second `A` which name it met before; at `?` an
    S-inhibition head moves that there; the name mover attends to names, but by its query not to that one, and copies what it finds.
    Source: the roles of Wang et al. 2022, "Interpretability in the Wild", section 3, one head each.
    """
    tokenizer = CharTokenizer(_BEGIN + _END + _NAMES + _OTHERS)
    bench = _bench(
        tokenizer, ("duplicate", "inhibited"), n_layers=3, n_heads=n_heads, n_kv_heads=n_kv_heads, seed=seed, is_rotated=is_rotated
    )
    duplicate, inhibition, mover = heads = [bench.take_head(layer) for layer in range(3)]
    _wire_duplicate(bench, tokenizer, duplicate, attention, _NAMES + _OTHERS)
    bench.set_head(
        inhibition, **_find_duplicate(bench, tokenizer, attention), v=bench.read("duplicate"), o=bench.write("inhibited")
    )
    _wire_name_mover(bench, tokenizer, mover, attention)
    others = add_distractors(bench, _KINDS, attention)
    prompts = draw_prompts(_draw_indirect_object, tokenizer, n_prompts, make_generator(seed, "prompts"))
    earlier, later, answer_at = prompts.places.unbind(dim=1)
    end = torch.full_like(later, _N_POS - 1)
    positions: dict[Head | Neuron, Tensor] = {duplicate: later, inhibition: end, mover: end}
    return Handmade(
        name="indirect object",
        model=bench.finished(),
        tokenizer=tokenizer,
        circuit=_indirect_object_circuit(*heads),
        distractors=others,
        **prompts.asked(),
        positions=positions,
        corrupted_positions=positions,
        sources={duplicate: earlier, inhibition: later, mover: answer_at},
        attention=attention,
        leak=0.0,
        carrying=frozenset(
            {
                Edge("embed", duplicate, "q"),
                Edge("embed", duplicate, "k"),  # letters of the corrupted prompt that come twice among the clean one's
                Edge(duplicate, inhibition, "v"),
                Edge(inhibition, mover, "q"),
                Edge("embed", mover, "k"),  # the name that comes again
                Edge(mover, "logits", "logits"),
            }
        ),
    )


def _bench(
    tokenizer: CharTokenizer,
    written: tuple[str, ...],
    *,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int | None,
    seed: int,
    is_rotated: bool,
) -> Workbench:
    n = tokenizer.d_vocab
    spaces = {"token": n, **dict.fromkeys(written, n), "out": n, "pos": _N_CTX}
    return Workbench(
        spaces, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, width=n + _N_CTX + 1, n_ctx=_N_CTX, position="learned",
        seed=seed, is_rotated=is_rotated,
    )  # fmt: skip


def _one_hot(tokenizer: CharTokenizer, letters: str) -> Float[Tensor, "letter d_vocab"]:
    """Return the rows that pick these letters out of one-hot tokens."""
    return torch.eye(tokenizer.d_vocab, dtype=torch.float64)[tokenizer.encode(letters)]


def _copy(bench: Workbench, tokenizer: CharTokenizer, letters: str) -> Float[Tensor, "d_model letter"]:
    return bench.write("out") @ _one_hot(tokenizer, letters).T


def _wire_duplicate(bench: Workbench, tokenizer: CharTokenizer, head: Head, attention: float, written: str) -> None:
    """Attend to an earlier occurrence of the token and write which of `written` it is; without one, attend to `^` and write little.

    With R the odds of the attention and n keys, `^` scores log(R n), so that it stands out of n zeros; an occurrence log(R (R n + n)),
    so that it stands out of both.
    """
    n_keys, token = bench.config.n_ctx, bench.read("token")
    rest = odds(attention) * n_keys
    matching = match_earlier(bench, math.log(odds(attention) * (rest + n_keys)))
    letters = _one_hot(tokenizer, written)
    bench.set_head(
        head,
        q=torch.cat([matching.q, math.log(rest) * token.sum(dim=0, keepdim=True)]),
        k=torch.cat([matching.k, _one_hot(tokenizer, _BEGIN) @ token]),
        v=letters @ token,
        o=bench.write("duplicate") @ letters.T,
    )


def _find_duplicate(bench: Workbench, tokenizer: CharTokenizer, attention: float) -> dict[str, Tensor]:
    """Return what queries and keys read to attend from `?` to the position where a duplicate-token head wrote something.

    What it writes sums to at least `attention` where there was a duplicate, and to 1 - attention at most where there was none.
    """
    score = math.log(odds(attention) * bench.config.n_ctx) / (2 * attention - 1)
    return {
        "q": score * _one_hot(tokenizer, _END) @ bench.read("token"),
        "k": bench.read("duplicate").sum(dim=0, keepdim=True),
    }


def _wire_name_mover(bench: Workbench, tokenizer: CharTokenizer, head: Head, attention: float) -> None:
    """Attend from `?` to names, but not to the one that is inhibited (which arrives with weight attention^2), and copy them."""
    names = _one_hot(tokenizer, _NAMES)
    score = math.log(odds(attention) * bench.config.n_ctx)
    any_name = torch.ones(len(_NAMES), 1, dtype=torch.float64) @ _one_hot(tokenizer, _END) @ bench.read("token")
    bench.set_head(
        head,
        q=score * (any_name - names @ bench.read("inhibited") / attention**2),
        k=names @ bench.read("token"),
        v=names @ bench.read("token"),
        o=_copy(bench, tokenizer, _NAMES),
    )


def _duplicate_edges(duplicate: Head) -> frozenset[Edge]:
    return frozenset(
        {
            Edge("embed", duplicate, "q"),
            Edge("embed", duplicate, "k"),
            Edge("pos_embed", duplicate, "q"),  # by position it knows itself from an earlier occurrence
            Edge("pos_embed", duplicate, "k"),
            Edge("embed", duplicate, "v"),
        }
    )


def _copying_circuit(duplicate: Head, mover: Head) -> Circuit:
    return Circuit(
        heads={duplicate: "duplicate token", mover: "copying"},
        neurons={},
        edges=_duplicate_edges(duplicate)
        | {
            Edge("embed", mover, "q"),
            Edge(duplicate, mover, "k"),
            Edge("embed", mover, "v"),
            Edge(mover, "logits", "logits"),
        },
    )


def _indirect_object_circuit(duplicate: Head, inhibition: Head, mover: Head) -> Circuit:
    return Circuit(
        heads={duplicate: "duplicate token", inhibition: "S-inhibition", mover: "name mover"},
        neurons={},
        edges=_duplicate_edges(duplicate)
        | {
            Edge("embed", inhibition, "q"),
            Edge(duplicate, inhibition, "k"),
            Edge(duplicate, inhibition, "v"),
            Edge("embed", mover, "q"),
            Edge(inhibition, mover, "q"),
            Edge("embed", mover, "k"),
            Edge("embed", mover, "v"),
            Edge(mover, "logits", "logits"),
        },
    )


def _places(n: int, generator: torch.Generator) -> list[int]:
    """Return `n` positions between the first and the last, in order."""
    return sorted(1 + int(i) for i in torch.randperm(_N_POS - 2, generator=generator)[:n])


def _text(places: list[int], letters: tuple[str, ...], rest: str | list[str], generator: torch.Generator) -> str:
    """Return a prompt with these letters in their places and each of the others at most once."""
    filled = [_BEGIN, *draw(rest, _N_POS - 2 - len(places), generator)]
    for place, letter in zip(places, letters, strict=True):
        filled.insert(place, letter)
    return "".join([*filled, _END])


def _draw_copying(generator: torch.Generator) -> PromptPair:
    """Draw four places for a, b, a, c, or corrupted c, b, a, c; tell the first, the third and the last of them."""
    answer, wrong, between = special = draw(_OTHERS, 3, generator)
    where, rest = _places(4, generator), [letter for letter in _OTHERS if letter not in special]
    return PromptPair(
        _text(where, (answer, between, answer, wrong), rest, generator),
        _text(where, (wrong, between, answer, wrong), rest, generator),
        answer,
        wrong,
        places=(where[0], where[2], where[3]),
    )


def _draw_indirect_object(generator: torch.Generator) -> PromptPair:
    """Draw three places for two names, in either order, and one again; tell where that is first, where again, and where the other."""
    names, where = draw(_NAMES, 2, generator), _places(3, generator)
    i_answer = int(torch.randint(2, (1,), generator=generator))
    answer, wrong = names[i_answer], names[1 - i_answer]
    return PromptPair(
        _text(where, (*names, wrong), _OTHERS, generator),
        _text(where, (*names, answer), _OTHERS, generator),
        answer,
        wrong,
        places=(where[1 - i_answer], where[2], where[i_answer]),
    )
