"""Steering vectors from what two sets of prompts, or two prompts, have different."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.probing.activations import Spots, activations_of
from cutaway.interp.rows import Texts, model_of, rows_of
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import full_name
from cutaway.interp.steering.vector import SteeringVector
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.views import without_dropout
from cutaway.weights import model_sha256

__all__ = ["difference_of_means", "differences_of_means", "activation_addition"]


def difference_of_means(
    lm: LanguageModel | Transformer, towards: Texts, away: Texts, layer: int, *, part: str = "resid_post", pos: int | None = -1
) -> SteeringVector:
    """Return the mean activation over one set of prompts less that over another: what to add to go from the second to the first.

    `part` is of the layer, `resid_post`, `attn_out`, `mlp_out`; `pos` is where it is taken, from each prompt's end where negative, or
    None for the mean over all tokens but the first, which sees nothing else and which models use as a place to rest their attention.
    Raises ValueError for a layer or position that is not there, and for sets with the same mean. Source: Arditi et al. 2024, "Refusal
    in Language Models Is Mediated by a Single Direction", section 2.3; Rimsky et al. 2023, "Steering Llama 2 via Contrastive
    Activation Addition".
    """
    return differences_of_means(lm, towards, away, [layer], part=part, pos=pos)[0]


def differences_of_means(
    lm: LanguageModel | Transformer,
    towards: Texts,
    away: Texts,
    layers: Sequence[int] | None = None,
    *,
    part: str = "resid_post",
    pos: int | None = -1,
) -> list[SteeringVector]:
    """Return the difference of means of several layers, all unless given, from one run of each set."""
    model = model_of(lm)
    names = [full_name(model.config, part, layer) for layer in (range(model.config.n_layers) if layers is None else layers)]
    sides = [_means(lm, texts, names, pos) for texts in (towards, away)]
    digest, where = model_sha256(model), "all tokens but the first" if pos is None else f"position {pos}"
    found = []
    for name in names:
        (mean, n), (other, n_other) = (side[name] for side in sides)
        if torch.equal(mean, other):
            raise ValueError(f"both sets of prompts have the same mean {name}: give prompts that differ, or another position")
        made = f"mean of {n} text{'s' * (n > 1)} less that of {n_other} other{'s' * (n_other > 1)}, at {where}"
        vector = (mean - other).to(model.embed.W_E)
        found.append(SteeringVector(name, vector, made, digest))
    return found


def activation_addition(lm: LanguageModel, towards: str, away: str, layer: int, *, part: str = "resid_pre") -> SteeringVector:
    """Return the difference of two prompts' activations position by position, to be added at the beginning of other texts.

    It is added as far as these go. The shorter prompt is filled up on the right with spaces. Source: Turner et al. 2023, "Steering
    Language Models With Activation Engineering" (ActAdd). Raises ValueError where they differ in length and a space is no token,
    and for prompts that are the same.
    """
    model, name = lm.model, full_name(lm.config, part, layer)
    rows = [lm.tokens(text)[0].tolist() for text in (towards, away)]
    if rows[0] == rows[1]:
        raise ValueError(f"both prompts are {towards!r}: give two that differ")
    space = lm.tokenizer.encode(" ") if len(rows[0]) != len(rows[1]) else [0]
    if len(space) != 1:
        raise ValueError(
            "the prompts differ in length, and a space is not one token here to fill up with: give prompts of one length"
        )
    width = max(map(len, rows))
    tokens = torch.tensor([row + space * (width - len(row)) for row in rows], device=model.embed.W_E.device)
    model = without_dropout(model)
    _, cache = run_with_cache(model, tokens, name)
    vector = cache[name][0] - cache[name][1]
    made = f"{towards!r} less {away!r}, position by position"
    return SteeringVector(name, vector, made, model_sha256(model))


def _means(
    lm: LanguageModel | Transformer, texts: Texts, names: Sequence[str], pos: int | None
) -> dict[str, tuple[Float[Tensor, " d"], int]]:
    """Return each activation's mean over texts, or over their tokens, in float64, and how many texts there are."""
    rows = rows_of(lm, texts)
    spots = Spots.after_first(rows) if pos is None else Spots.at_position(rows, pos)
    found = activations_of(lm, list(dict.fromkeys(names)), [spots])
    return {name: (x[0].double().mean(0), len(rows.tokens)) for name, x in found.items()}
