"""Text under a steering vector at several strengths, side by side, with what it costs elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.generating import generate_with_edits
from cutaway.interp.result import Result
from cutaway.interp.rows import Texts
from cutaway.interp.steering.side_effects import Damage, Variant, adding, measure_damage, neutral_rows, shown_perplexity
from cutaway.interp.steering.vector import SteeringVector
from cutaway.language_model import LanguageModel
from cutaway.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["SteeredText", "Steering", "steer"]


@dataclass(frozen=True)
class SteeredText:
    """What the model writes under one intervention, and what that does to neutral text."""

    label: str
    """The strength, or `ablated`."""
    strength: float | None
    """None where the direction is taken away."""
    continuations: tuple[str, ...]
    """What comes after each prompt."""
    damage: Damage
    random: tuple[Damage, ...]
    """The same for random directions: added at the same length, or moved along by as much as the ablation moves the stream."""

    @property
    def random_mean(self) -> Damage:
        """The mean over random directions."""
        n = len(self.random)
        return Damage(sum(each.kl for each in self.random) / n, sum(each.perplexity for each in self.random) / n)


@dataclass(frozen=True, eq=False, repr=False)
class Steering(Result):
    """Continuations of prompts under a vector at several strengths; the first is the model as it is."""

    title: ClassVar[str] = "Steering"
    source: ClassVar[str] = (
        'Turner et al. 2023, "Steering Language Models With Activation Engineering" (addition); Arditi et al. 2024, "Refusal in '
        'Language Models Is Mediated by a Single Direction", section 2.4 (ablation)'
    )

    vector: SteeringVector
    prompts: tuple[str, ...]
    steered: tuple[SteeredText, ...]
    n_tokens: int
    """How much neutral text there is."""

    def summary(self) -> str:
        """Return what was added, and what it costs at the end of the list."""
        base = self.steered[0].damage
        most = max(self.steered[1:], key=lambda each: abs(each.strength or 0.0))
        what = "with its direction taken away" if most.strength is None else f"at strength {most.label}"
        null = "moved by as much along random directions" if most.strength is None else "random directions of that length"
        perplexity, random = (shown_perplexity(each.perplexity) for each in (most.damage, most.random_mean))
        return (
            f"The vector at {self.vector.name} is {self.vector.norm:.1f} long ({self.vector.made}). On {self.n_tokens} tokens of "
            f"neutral text the perplexity is {base.perplexity:.1f}; {what} it is {perplexity} and predictions are {most.damage.kl:.2f} "
            f"nats away ({null}: {random} and {most.random_mean.kl:.2f})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the vector, all texts and all side effects."""
        return {
            "vector": self.vector.to_dict(),
            "norm": self.vector.norm,
            "prompts": list(self.prompts),
            "n_tokens": self.n_tokens,
            "steered": [
                {
                    "label": each.label,
                    "strength": each.strength,
                    "continuations": list(each.continuations),
                    "kl": each.damage.kl,
                    "perplexity": each.damage.perplexity,
                    "random": [{"kl": one.kl, "perplexity": one.perplexity} for one in each.random],
                }
                for each in self.steered
            ],
        }

    def figures(self) -> list[Figure]:
        """Return the KL on neutral text of every strength, beside random directions."""
        from cutaway.plots import bars, lines

        shown = self.steered[1:]
        title, y_label = "Side effects on neutral text", "KL(unsteered || steered), nats"
        if any(each.strength is None for each in shown) or len(shown) < 2:
            labels = [name for each in shown for name in (each.label, f"{each.label}, random")]
            values = [value for each in shown for value in (each.damage.kl, each.random_mean.kl)]
            return [bars(values, labels=labels, title=title, label=y_label, signed=False)]
        ordered = sorted(((each.strength, each) for each in self.steered if each.strength is not None), key=lambda pair: pair[0])
        x = [strength for strength, _ in ordered]
        curves = {
            "the vector": (x, [each.damage.kl for _, each in ordered]),
            "random directions": (x, [each.random_mean.kl for _, each in ordered]),
        }
        return [lines(curves, title=title, x_label="strength", y_label=y_label)]

    def views(self) -> list[RenderableType]:
        """Return for each prompt the texts one below the other, and the side effects."""
        from rich.text import Text

        shown: list[RenderableType] = []
        for number, prompt in enumerate(self.prompts):
            texts = table("strength", "continuation", right=["strength"], title=prompt)
            for each in self.steered:
                texts.add_row(each.label, Text(each.continuations[number].strip() or "(nothing)", overflow="fold"))
            shown.append(texts)
        headers = ("strength", "KL, nats", "random", "perplexity", "random ")
        costs = table(*headers, right=headers, title="On neutral text")
        for each in self.steered:
            costs.add_row(each.label, *self._numbers(each))
        return [*shown, costs]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the texts and the side effects."""
        headers = ("strength", *(f"after {prompt!r}" for prompt in self.prompts), "KL, nats", "random", "perplexity", "random ")
        rows = [(each.label, *(_broken(text) for text in each.continuations), *self._numbers(each)) for each in self.steered]
        return headers, rows

    def _numbers(self, each: SteeredText) -> tuple[str, str, str, str]:
        random = each.random_mean
        perplexities = shown_perplexity(each.damage.perplexity), shown_perplexity(random.perplexity)
        return f"{each.damage.kl:.3f}", f"{random.kl:.3f}", *perplexities


def steer(
    lm: LanguageModel,
    vector: SteeringVector,
    prompts: str | Sequence[str],
    *,
    strengths: Sequence[float] = (1.0, 2.0, 4.0),
    ablate: bool = False,
    neutral: Texts | None = None,
    n_random: int = 2,
    max_new_tokens: int = 40,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Steering:
    """Return what the model writes after prompts as it is and with a vector added at every position, at each strength.

    A vector for each of the first positions is added to those of the prompt alone, not to what is written after it. With `ablate`
    its direction is taken out of the stream at every layer and position instead. Beside the texts stand KL and perplexity on
    `neutral` texts, `NEUTRAL_TEXTS` unless given, and those of `n_random` directions, added at the same length or with `ablate`
    moved along by as much (`SteeringVector.ablation_along`). `options` are those of `lm.generate`, and the same seed is used for
    every text. Raises ValueError for a vector that was made for another model.
    """
    vector.check(lm.model)
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}: give at least 1 random direction to compare with")
    if not ablate and not any(strengths):
        raise ValueError("there is no strength to steer with: give at least one that is not 0, or take the direction out")
    each = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    chosen: list[float | None] = [None] if ablate else [strength for strength in dict.fromkeys(strengths) if strength]
    others = [vector.random(seed=seed + number) for number in range(n_random)]
    variants: list[Variant] = []
    for strength in chosen:
        variants += [_variant_of(lm, vector, strength), *(_null_of(lm, vector, other, strength) for other in others)]
    rows = neutral_rows(lm, neutral)
    base, damages = measure_damage(lm, rows, variants, progress=progress)
    plain = Damage(0.0, base)
    steered = [SteeredText("0", 0.0, _written(lm, each, [], max_new_tokens, seed, options), plain, (plain,))]
    for number, strength in enumerate(chosen):
        of = damages[number * (1 + n_random) : (number + 1) * (1 + n_random)]
        texts = _written(lm, each, _variant_of(lm, vector, strength), max_new_tokens, seed, options)
        steered.append(SteeredText("ablated" if strength is None else f"{strength:g}", strength, texts, of[0], tuple(of[1:])))
    return Steering(vector=vector, prompts=each, steered=tuple(steered), n_tokens=sum(rows.lengths))


def _variant_of(lm: LanguageModel, vector: SteeringVector, strength: float | None) -> Variant:
    return vector.ablation(lm.config) if strength is None else adding(vector, strength)


def _null_of(lm: LanguageModel, vector: SteeringVector, other: SteeringVector, strength: float | None) -> Variant:
    return partial(vector.ablation_along, other, lm.model) if strength is None else adding(other, strength)


def _written(
    lm: LanguageModel, prompts: Sequence[str], variant: Variant, max_new_tokens: int, seed: int, options: dict[str, Any]
) -> tuple[str, ...]:
    given = {"max_new_tokens": max_new_tokens, "seed": seed, **options}
    written = []
    for prompt in prompts:
        edits = variant(lm.tokens(prompt, bos=options.get("bos"))) if callable(variant) else variant
        written.append(generate_with_edits(lm, prompt, edits, **given)[len(prompt) :])
    return tuple(written)


def _broken(text: str, width: int = 60) -> str:
    """Return a text in lines, as a page shows it."""
    import textwrap

    return "\n".join(textwrap.wrap(" ".join(text.split()), width))
