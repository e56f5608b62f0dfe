"""Circuits of features alone: some features of one activation kept, all else of it ablated, and how faithful that is.

A dictionary of the residual stream has no edges in a graph, as all that comes later reads it whole; which of its features are needed
can still be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.ablation import How
from cutaway.interp.circuits.bootstrap import N_RESAMPLES
from cutaway.interp.circuits.curve_result import AblationCurve
from cutaway.interp.circuits.faithfulness import LEAST_GAP
from cutaway.interp.result import Result
from cutaway.interp.running import gradients, run_with_cache
from cutaway.interp.sae import Dictionary, check_fits
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.model import Transformer
from cutaway.report import format_fixed, table
from cutaway.runtime import seeded_generator
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["KeptFeatures", "keep_features"]

_SIZES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_WIDEST = 24  # letters of a column's head
_NEAR = 0.1  # of the way from the ablated activation to the model
_VALUES_BYTES = 2**27  # of activations with some features kept, held at a time
_SAID = {"zero": "nothing", "mean": "their mean over the rows of the other run", "resample": "what they are in the other run"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KeptFeatures(Result):
    """The metric with more and more features kept, the best first, and everything else of the activation ablated."""

    title: ClassVar[str] = "Features kept"
    source: ClassVar[str] = 'sets of features and their faithfulness (Marks et al. 2024, "Sparse Feature Circuits")'

    said: str
    """The activation, in words."""
    features: tuple[int, ...]
    """Those that are not alike in the run and when ablated, the best first."""
    sizes: tuple[int, ...]
    """How many of them are kept."""
    curve: AblationCurve
    keeps_rest: bool
    measured: str = "metric"

    def summary(self) -> str:
        """Return how many features there are, what is ablated, and from how many on the metric is nearly the model's."""
        curve, rest = self.curve, "kept" if self.keeps_rest else "ablated"
        said = [
            f"{len(self.features):,} features of {self.said} matter; some are kept, the best first, and the others are ablated to "
            f"{curve.said}; the rest, bias and error, is {rest}. The {self.measured} is {curve.model.mean():.3f} in the model, "
            f"{curve.empty.mean():.3f} with the whole activation ablated."
        ]
        if curve.refusal:
            return " ".join([*said, f"{curve.refusal[0].upper()}{curve.refusal[1:]}."])
        if self.keeps_rest and 0 in self.sizes:
            said.append(f"The rest alone goes {_percent(curve.normalised[self.sizes.index(0)])} % of the way to the model.")
        far = (curve.normalised - 1).abs() > _NEAR
        near = self.sizes[int(far.nonzero()[-1]) + 1 :] if bool(far.any()) else self.sizes
        said.append(
            f"With {near[0]:,} kept or more it stays within {100 * _NEAR:g} % of the model."
            if near
            else f"No size comes within {100 * _NEAR:g} % of the model and stays there."
        )
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return features, sizes, rows and shares as values that JSON can hold."""
        return {
            "activation": self.said,
            "metric": self.measured,
            "features": list(self.features),
            "sizes": list(self.sizes),
            "keeps_rest": self.keeps_rest,
            "curve": self.curve.to_dict(),
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a row for each size: the metric, its share of the way with an interval, and that of random features."""
        curve, intervals, random = self.curve, self.curve.intervals(), self.curve.random_shares()
        rows = []
        for i, n in enumerate(self.sizes):
            ends = "-" if intervals is None else f"{100 * intervals[i].low:.0f} to {100 * intervals[i].high:.0f}"
            row = [str(n), f"{curve.circuits[i].mean():.3f}", _percent(curve.normalised[i]), ends]
            rows.append([*row, _percent(sum(random[i]) / len(random[i])) if random[i] else "-"])
        measured = self.measured if len(self.measured) <= _WIDEST else "metric"
        return ["kept", measured, "share %", "95 %", "random %"], rows

    def figures(self) -> list[Figure]:
        """Return the curve with its intervals, and that of random features."""
        from cutaway.plots import bands

        curve, intervals = self.curve, self.curve.intervals()
        if curve.refusal:
            return []
        drawn = [i for i, n in enumerate(self.sizes) if n]  # the axis is logarithmic
        values = curve.normalised.tolist()
        low, high = zip(*intervals, strict=True) if intervals else (values, values)
        at = [self.sizes[i] for i in drawn]
        series = {"the best": (at, *([of[i] for i in drawn] for of in (values, low, high)))}
        random = [sorted(each) for each in curve.random_shares()]
        if some := [i for i in drawn if random[i]]:
            spread = ([random[i][place] for i in some] for place in (len(random[some[0]]) // 2, 0, -1))
            series["random"] = ([self.sizes[i] for i in some], *spread)
        labels = {"x_label": "features kept", "y_label": "faithfulness"}
        return [bands(series, title="Features kept", x_is_log=True, marks=(0.0, 1.0), **labels)]

    def views(self) -> list[RenderableType]:
        """Return the table."""
        header, rows = self.table()
        shown = table(*header, right=header)
        for row in rows:
            shown.add_row(*row)
        return [shown]


def keep_features(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "other_batch other_pos"],
    metric: AnyMetric,
    dictionary: Dictionary,
    *,
    features: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    ablation: How = "resample",
    keeps_rest: bool = True,
    n_random: int = 10,
    least_gap: float = LEAST_GAP,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    measured: str = "metric",
    progress: Callable[[int, int], None] | None = None,
) -> KeptFeatures:
    """Return how faithful the model is with some features of one activation alone, the others ablated at all positions.

    The activation is a sum of features and a rest, its bias and error, which is kept as one part or, without `keeps_rest`, ablated too.
    What is ablated is nothing, its mean over the rows of `other_tokens` at each position, or with `resample` what it is in their run;
    so with all features and the rest kept it is the model, with nothing kept the whole activation is patched. `features` are kept in
    their order, as found on other prompts; unless given, by what a gradient says of each, here. `sizes` are how many; beside each
    stand `n_random` random sets of as many. Works for autoencoders of any activation and for transcoders, whose target it is. Raises
    ValueError for a dictionary that does not fit, for sizes that are too large and for runs of different length.
    Source: Marks et al. 2024, "Sparse Feature Circuits", of nodes alone.
    """
    if ablation not in get_args(How):
        raise ValueError(f"there is no ablation {ablation!r}; give one of {', '.join(get_args(How))}")
    check_fits(dictionary, model)
    model = without_dropout(model)
    parts = _Parts.of(model, tokens, other_tokens, metric, dictionary, ablation)
    ranked = parts.ranked() if features is None else _checked(features, dictionary)
    chosen = _sizes(sizes, len(ranked))
    sets = [ranked[:n] for n in chosen]
    generator = seeded_generator(seed)
    beside = [
        [torch.tensor(ranked)[torch.randperm(len(ranked), generator=generator)[:n]].tolist() for _ in range(n_random)]
        if 0 < n < len(ranked)
        else []
        for n in chosen
    ]
    every = [*sets, *(each for some in beside for each in some)]
    empty, *found = parts.measured(every, metric, keeps_rest=keeps_rest, progress=progress)
    drawn = iter(found[len(sets) :])
    random = tuple(torch.stack([next(drawn) for _ in some]) if some else None for some in beside)
    curve = AblationCurve(
        how=ablation, said=_SAID[ablation], model=parts.base, empty=empty, shares=tuple(n / max(1, len(ranked)) for n in chosen),
        circuits=torch.stack(found[: len(sets)]), random=random, least_gap=least_gap, n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
    return KeptFeatures(
        said=parts.name, features=tuple(ranked), sizes=tuple(chosen), curve=curve, keeps_rest=keeps_rest, measured=measured
    )


@dataclass(frozen=True, eq=False)
class _Parts:
    """An activation of a run as features and a rest, and what each is when ablated."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    name: str
    shape: torch.Size
    base: Float[Tensor, " batch"]
    """The metric of the model."""
    instead: Float[Tensor, "#batch pos d"]
    """The whole activation when ablated."""
    moved: Float[Tensor, "batch pos d_sae"]
    """Latents less what they are when ablated."""
    rest_moved: Float[Tensor, "batch pos d"]
    directions: Float[Tensor, "d_sae d"]
    gradient: Float[Tensor, "batch pos d"]

    @classmethod
    def of(
        cls, model: Transformer, tokens: Tensor, other_tokens: Tensor, metric: AnyMetric, dictionary: Dictionary, ablation: How
    ) -> _Parts:
        """Run both and take them apart."""
        if tokens.shape[1] != other_tokens.shape[1] or (ablation == "resample" and len(tokens) != len(other_tokens)):
            raise ValueError(
                f"the tokens are {list(tokens.shape)} and the other tokens {list(other_tokens.shape)}, rows and positions: give as "
                "many of one length"
            )
        config = dictionary.config
        name = config.target if config.is_transcoder and config.target else config.name
        base, cache, grads = gradients(model, tokens, metric, sorted({name, config.name}))

        @torch.no_grad()
        def taken_apart(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            wide = x.flatten(2).to(dictionary.W_enc.dtype)
            return y.flatten(2).to(wide), dictionary.encode(wide)

        y, latents = taken_apart(cache[name], cache[config.name])
        if ablation == "zero":
            instead, latents_instead = torch.zeros_like(y[:1]), torch.zeros_like(latents[:1])
        else:
            _, others = run_with_cache(model, other_tokens, sorted({name, config.name}))
            instead, latents_instead = taken_apart(others[name], others[config.name])
            if ablation == "mean":
                instead, latents_instead = instead.mean(0, keepdim=True), latents_instead.mean(0, keepdim=True)
        moved, directions = latents - latents_instead, dictionary.W_dec.detach()
        rest = y - instead - moved @ directions
        return cls(model, tokens, name, cache[name].shape, base, instead, moved, rest, directions, grads[name].flatten(2).to(y))

    def ranked(self) -> list[int]:
        """Return the features that are moved, by the size of their effect to first order, mean over rows."""
        estimates = (self.moved * (self.gradient @ self.directions.mT)).sum(1).mean(0)
        is_moved = (self.moved != 0).any(0).any(0)
        order: list[int] = estimates.abs().masked_fill(~is_moved, -1.0).argsort(descending=True, stable=True).tolist()
        return order[: int(is_moved.sum())]

    def measured(
        self, sets: Sequence[Sequence[int]], metric: AnyMetric, *, keeps_rest: bool, progress: Callable[[int, int], None] | None
    ) -> list[Float[Tensor, " batch"]]:
        """Return the metric with the whole activation ablated, and with each of these sets of features kept."""
        nothing = self.instead.expand_as(self.rest_moved)
        start = nothing + self.rest_moved if keeps_rest else nothing
        n = max(1, _VALUES_BYTES // max(1, start.nbytes))
        found: list[Tensor] = []
        for first in range(0, len(sets) + 1, n):
            some = range(first, min(first + n, len(sets) + 1))
            values = [nothing if i == 0 else start + self._written(sets[i - 1]) for i in some]
            like = self.model.embed.W_E
            variants = [[edits.replace(self.name, x.to(like.dtype).reshape(self.shape))] for x in values]
            with torch.no_grad():
                found += list(sweep(self.model, self.tokens, variants, metric))
            if progress is not None:
                progress(len(found), len(sets) + 1)
        return found

    def _written(self, features: Sequence[int]) -> Float[Tensor, "batch pos d"]:
        return self.moved[..., list(features)] @ self.directions[list(features)]


def _checked(features: Sequence[int], dictionary: Dictionary) -> list[int]:
    d_sae = dictionary.config.d_sae
    if wrong := [each for each in features if not 0 <= each < d_sae]:
        raise ValueError(f"there is no feature {wrong[0]}; there are {d_sae}, 0 to {d_sae - 1}")
    return list(dict.fromkeys(features))


def _sizes(sizes: Sequence[int] | None, n_features: int) -> list[int]:
    if sizes is None:
        return [*(n for n in _SIZES if n < n_features), n_features]
    if wrong := [n for n in sizes if not 0 <= n <= n_features]:
        raise ValueError(f"{wrong[0]} features are to be kept and {n_features} can be: give 0 to so many")
    return list(sizes)


def _percent(share: float | Tensor) -> str:
    return format_fixed(100 * float(share), 1) or "-"
