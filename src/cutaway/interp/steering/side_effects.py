"""What steering costs: how far the model's predictions on neutral text move, beside a random direction of the same length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.editing import run_with_edits
from cutaway.interp.edits import Edit
from cutaway.interp.result import Result
from cutaway.interp.rows import Rows, Texts, model_of, rows_of
from cutaway.interp.steering.vector import SteeringVector
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.model.norms import at_least_float32
from cutaway.report import filled_table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = [
    "NEUTRAL_TEXTS",
    "Damage",
    "SideEffects",
    "Variant",
    "adding",
    "measure_damage",
    "neutral_rows",
    "side_effects",
    "shown_perplexity",
]

Variant = Sequence[Edit] | Callable[[Int[Tensor, "1 pos"]], Sequence[Edit]]
"""Edits of every text, or what makes those of one from its tokens."""

NEUTRAL_TEXTS = (
    "The library opens at nine in the morning and closes at six. Books may be kept for three weeks, and the desk answers questions.",
    "To find the area of a rectangle, multiply its length by its width. A square is a rectangle whose four sides are equally long.",
    "The train leaves from platform four and stops at every station. Tickets can be bought at the counter or from the machine.",
    "Water boils when its vapour pressure equals that of the air around it, which is why it boils sooner on a high mountain.",
)
"""Plain text about nothing in particular, for want of better: give text of the kind that the model is used on."""


@dataclass(frozen=True)
class Damage:
    """How far edits move predictions on neutral text."""

    kl: float
    """KL(unedited || edited) in nats, mean over tokens."""
    perplexity: float
    """Of the next tokens."""


@dataclass(frozen=True, eq=False, repr=False)
class SideEffects(Result):
    """KL and perplexity on neutral text for each strength, beside random directions of the same length."""

    title: ClassVar[str] = "Side effects of steering"
    source: ClassVar[str] = (
        'Turner et al. 2023, "Steering Language Models With Activation Engineering" (perplexity of unrelated text under steering)'
    )

    made: str
    """How the vector was made."""
    name: str
    perplexity: float
    """That of the model as it is."""
    strengths: tuple[float, ...]
    vector: tuple[Damage, ...]
    random: tuple[tuple[Damage, ...], ...]
    """For each strength that of each random direction."""
    n_tokens: int

    def random_mean(self, place: int) -> Damage:
        """Return the mean over random directions at one strength."""
        each = self.random[place]
        return Damage(sum(one.kl for one in each) / len(each), sum(one.perplexity for one in each) / len(each))

    def summary(self) -> str:
        """Return what the greatest strength does."""
        place = max(range(len(self.strengths)), key=lambda each: abs(self.strengths[each]))
        found, random = self.vector[place], self.random_mean(place)
        return (
            f"On {self.n_tokens:,} tokens of neutral text the perplexity is {self.perplexity:.1f}. With {self.strengths[place]:g} "
            f"times the vector at {self.name} it is {found.perplexity:.1f}, and the predictions are {found.kl:.3f} nats away; "
            f"with random directions of that length {random.perplexity:.1f} and {random.kl:.3f}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of every strength."""
        return {
            "made": self.made,
            "name": self.name,
            "n_tokens": self.n_tokens,
            "perplexity": self.perplexity,
            "strengths": [
                {
                    "strength": strength,
                    "kl": found.kl,
                    "perplexity": found.perplexity,
                    "random": [{"kl": one.kl, "perplexity": one.perplexity} for one in random],
                }
                for strength, found, random in zip(self.strengths, self.vector, self.random, strict=True)
            ],
        }

    def figures(self) -> list[Figure]:
        """Return the KL over strengths."""
        from cutaway.plots import lines

        places = sorted(range(len(self.strengths)), key=lambda place: self.strengths[place])
        x = [self.strengths[place] for place in places]
        curves = {
            "the vector": (x, [self.vector[place].kl for place in places]),
            "random directions": (x, [self.random_mean(place).kl for place in places]),
        }
        return [lines(curves, title="Side effects on neutral text", x_label="strength", y_label="KL(unsteered || steered), nats")]

    def views(self) -> list[RenderableType]:
        """Return the numbers as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the numbers of every strength."""
        rows = [
            (
                f"{strength:g}",
                f"{found.kl:.3f}",
                f"{self.random_mean(place).kl:.3f}",
                shown_perplexity(found.perplexity),
                shown_perplexity(self.random_mean(place).perplexity),
            )
            for place, (strength, found) in enumerate(zip(self.strengths, self.vector, strict=True))
        ]
        return ("strength", "KL, nats", "random", "perplexity", "random "), rows


def side_effects(
    lm: LanguageModel | Transformer,
    vector: SteeringVector,
    *,
    strengths: Sequence[float] = (1.0, 2.0, 4.0),
    texts: Texts | None = None,
    n_random: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SideEffects:
    """Return KL and perplexity on neutral texts with a vector added at every position, beside `n_random` directions of its length.

    A vector for each of the first positions is added to these, as far as a text goes. The texts are `NEUTRAL_TEXTS` unless given.
    Raises ValueError for a model that the vector was not made for, and for texts without a next token.
    """
    vector.check(model_of(lm))
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}: give at least 1 random direction to compare with")
    others = [vector.random(seed=seed + number) for number in range(n_random)]
    variants = [adding(each, strength) for strength in strengths for each in (vector, *others)]
    rows = neutral_rows(lm, texts)
    base, found = measure_damage(lm, rows, variants, progress=progress)
    by_strength = [found[start : start + 1 + n_random] for start in range(0, len(found), 1 + n_random)]
    return SideEffects(
        made=vector.made,
        name=vector.name,
        perplexity=base,
        strengths=tuple(map(float, strengths)),
        vector=tuple(each[0] for each in by_strength),
        random=tuple(tuple(each[1:]) for each in by_strength),
        n_tokens=sum(rows.lengths),
    )


def adding(vector: SteeringVector, strength: float) -> Variant:
    """Return what makes the edits of one text that add the vector to it, as far as the text goes."""
    return lambda tokens: vector.edits(strength, n_pos=tokens.shape[1])


def neutral_rows(lm: LanguageModel | Transformer, texts: Texts | None) -> Rows:
    """Return neutral texts as rows; without any, those that come with cutaway, as much of each as the context holds."""
    if texts is not None:
        return rows_of(lm, texts)
    rows, n_ctx = rows_of(lm, NEUTRAL_TEXTS), model_of(lm).config.n_ctx
    return Rows(rows.tokens[:, :n_ctx], tuple(min(length, n_ctx) for length in rows.lengths))


def measure_damage(
    lm: LanguageModel | Transformer,
    rows: Rows,
    variants: Sequence[Variant],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, list[Damage]]:
    """Return the perplexity of some texts, and for each variant how far it moves the predictions; one text is run at a time."""
    if min(rows.lengths) < 2:
        raise ValueError("a neutral text has one token, so no next one to predict: give longer texts")
    model = model_of(lm)
    n_runs, n_predicted = len(rows.lengths) * (len(variants) + 1), sum(rows.lengths) - len(rows.lengths)
    base_loss, kl, loss = 0.0, [0.0] * len(variants), [0.0] * len(variants)
    model = without_dropout(model)
    with torch.no_grad():
        for row, length in enumerate(rows.lengths):
            tokens = rows.tokens[row : row + 1, :length]
            base = at_least_float32(model(tokens)).log_softmax(-1)
            base_loss += _loss(base, tokens)
            for number, variant in enumerate(variants):
                edits = variant(tokens) if callable(variant) else variant
                log_probs = at_least_float32(run_with_edits(model, tokens, edits)).log_softmax(-1)
                kl[number] += float((base.exp() * (base - log_probs)).sum())
                loss[number] += _loss(log_probs, tokens)
                if progress is not None:
                    progress(row * (len(variants) + 1) + number + 2, n_runs)
    damages = [Damage(a / sum(rows.lengths), _exp(b / n_predicted)) for a, b in zip(kl, loss, strict=True)]
    return _exp(base_loss / n_predicted), damages


def shown_perplexity(value: float) -> str:
    """Return a perplexity in as many digits as say something."""
    return f"{value:,.1f}" if value < 1e6 else f"{value:.0e}"


def _loss(log_probs: Float[Tensor, "1 pos d_vocab"], tokens: Int[Tensor, "1 pos"]) -> float:
    """Return the loss summed over next tokens, in nats."""
    return -float(log_probs[0, :-1].gather(-1, tokens[0, 1:, None]).sum())


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
