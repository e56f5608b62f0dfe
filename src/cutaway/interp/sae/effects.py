"""Features as nodes: what a metric loses without each, one sweep for all, and what gradients say of that beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.ablation.measure import Measure, measure_of
from cutaway.interp.edits import Edit
from cutaway.interp.prompts import Prompts, Target
from cutaway.interp.ranks import rank_correlation
from cutaway.interp.result import Result
from cutaway.interp.rows import Reference, Rows, Texts, model_of, rows_of
from cutaway.interp.running import gradients, run_with_cache
from cutaway.interp.sae.activations import as_vectors, layer_of
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sae.splicing import check_fits, splice, splice_transcoder
from cutaway.interp.sites import site_of
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["FeatureEffect", "FeatureEffects", "feature_effects", "feature_edits"]

_VALUES_BYTES = 2**26  # of activations with one feature taken out, held at a time
_N_SHOWN, _N_BARS = 12, 30


class FeatureEffect(NamedTuple):
    """A feature, what its ablation is estimated to do to the metric, and what it did where that was tried; mean over rows."""

    feature: int
    estimate: float
    exact: float | None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureEffects(Result):
    """What the metric changes by without each feature that fires: estimated for all, tried for the best."""

    title: ClassVar[str] = "Effects of features"
    source: ClassVar[str] = (
        'Marks et al. 2024, "Sparse Feature Circuits" (attribution of features, errors kept); attribution patching, Nanda 2023'
    )

    said: str
    """The activation and how it was spliced, in words."""
    metric: str
    notes: tuple[str, ...]
    base: Float[Tensor, " batch"]
    """The metric with the dictionary in the run."""
    clean: Float[Tensor, " batch"]
    """The metric of the model itself."""
    features: tuple[int, ...]
    """Those that fire anywhere in the rows, or differ there in the other texts."""
    estimates: Float[Tensor, "feature batch"]
    """To first order: less the latent times its direction's product with the gradient, summed over positions."""
    exact: dict[int, Float[Tensor, " batch"]]
    """By feature, of those tried: the metric without it less `base`."""
    places: tuple[str, ...] = ()
    """The token, its row where there are several, at which each of these features is strongest, or differs most."""
    is_patched: bool = False
    """Whether features were given their latents in other texts; taken out otherwise."""

    def ranked(self) -> list[FeatureEffect]:
        """Return the features by the size of their exact effect, then those not tried by their estimate."""
        estimates = self.estimates.mean(1).tolist()
        effects = [
            FeatureEffect(feature, estimate, self.exact[feature].mean().item() if feature in self.exact else None)
            for feature, estimate in zip(self.features, estimates, strict=True)
        ]
        return sorted(effects, key=lambda each: (each.exact is None, -abs(each.estimate if each.exact is None else each.exact)))

    @property
    def agreement(self) -> float | None:
        """The rank correlation of estimates and exact effects among those tried."""
        tried = [each for each in self.ranked() if each.exact is not None]
        return rank_correlation([each.estimate for each in tried], [each.exact or 0.0 for each in tried])

    def summary(self) -> str:
        """Return the metric with and without the dictionary, and the features without which it changes most."""
        best = ", ".join(
            f"{each.feature} ({each.exact if each.exact is not None else each.estimate:+.3f})" for each in self.ranked()[:3]
        )
        said = "".join(f"{each[0].upper()}{each[1:]}. " for each in self.notes)
        agreement = self.agreement
        tried = f" {len(self.exact)} were tried" if self.exact else ""
        tried += f": rank correlation of estimates with them {agreement:.2f}." if agreement is not None else "." if tried else ""
        if not self.features:
            return f"{said}No feature {'differs' if self.is_patched else 'fires'} in these rows."
        return (
            f"{said}The {self.metric} is {self.clean.mean():.3f}, and {self.base.mean():.3f} with {self.said}. Of "
            f"{len(self.features):,} features that {self._moved} it changes most {self._changed} {best}.{tried}"
        )

    @property
    def _moved(self) -> str:
        return "differ in the other texts" if self.is_patched else "fire"

    @property
    def _changed(self) -> str:
        return "with the other texts' latents of" if self.is_patched else "without"

    def to_dict(self) -> dict[str, Any]:
        """Return every feature that fires with its estimate and, where it was tried, its effect."""
        return {
            "spliced": self.said,
            "metric": self.metric,
            "is_patched": self.is_patched,
            "notes": list(self.notes),
            "clean": self.clean.tolist(),
            "base": self.base.tolist(),
            "rank_correlation": self.agreement,
            "features": [each._asdict() for each in self.ranked()],
            "places": {str(feature): place for feature, place in zip(self.features, self.places, strict=False)},
        }

    def figures(self) -> Sequence[Figure]:
        """Return the strongest features."""
        from cutaway.plots import bars

        best = self.ranked()[:_N_BARS]
        if not best:
            return []
        values = [each.estimate if each.exact is None else each.exact for each in best]
        labels = [f"#{each.feature}{'' if each.exact is not None or not self.exact else ', estimated'}" for each in best]
        return [
            bars(values, labels=labels, title=f"{self._changed.capitalize()} each feature", label=f"change of the {self.metric}")
        ]

    def views(self) -> Sequence[RenderableType]:
        """Return the strongest features as a table."""
        headers, rows = self.table()
        shown = table(*headers, right=headers[:3])
        for row in rows[:_N_SHOWN]:
            shown.add_row(*row)
        return [shown]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return all features with their effects, the strongest first."""
        places = dict(zip(self.features, self.places, strict=True)) if self.places else {}
        rows = [
            [
                *(str(each.feature), f"{each.estimate:+.4f}", "" if each.exact is None else f"{each.exact:+.4f}"),
                *([places[each.feature]] if places else []),
            ]
            for each in self.ranked()
        ]
        at = ["differs most at" if self.is_patched else "strongest at"] if places else []
        return ["feature", "estimate", "exact", *at], rows


def feature_effects(
    lm: LanguageModel | Transformer,
    dictionary: Dictionary,
    texts: Texts,
    *,
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    features: Sequence[int] | None = None,
    exact_top: int = 20,
    other_texts: Reference | None = None,
    with_error: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureEffects:
    """Return what a metric changes by without each feature of a dictionary that fires in the texts.

    The dictionary is spliced into every run, with its error unless told otherwise; a feature is ablated by taking its latent times its
    direction off what is predicted, wherever it fires: a transcoder's off its target. With `other_texts`, as many tokens each, a
    feature is given the latent that it has there instead. Every feature's effect is estimated from one gradient, and the `exact_top`
    of the largest estimates are tried, or all of `features` where those are named. What is measured is as in `ablate`. Raises
    ValueError for a dictionary that does not fit the model, for features that are not there, and for other texts of other lengths.
    """
    model, rows = model_of(lm), rows_of(lm, texts)
    check_fits(dictionary, model)
    measure = measure_of(lm, rows, metric, correct, wrong)
    is_transcoder = dictionary.config.is_transcoder
    (spliced,) = (
        splice_transcoder(dictionary, with_error=with_error) if is_transcoder else [splice(dictionary, with_error=with_error)]
    )
    lengths = None if rows.is_even else rows.lengths
    model = without_dropout(model)
    base, _, grads = gradients(model, rows.tokens, measure.metric, spliced.name, edits=[spliced], lengths=lengths)
    clean = sweep(model, rows.tokens, [[]], measure.metric, lengths=lengths)[0]
    values, latents = _spliced(model, dictionary, rows, spliced)
    lost = latents if other_texts is None else latents - _of_others(model, dictionary, rows, rows_of(lm, other_texts))
    firing = (lost != 0).any(0).any(0).nonzero()[:, 0]
    towards = as_vectors(grads[spliced.name], spliced.name).to(latents) @ dictionary.W_dec[firing].T
    estimates = -(lost[..., firing] * towards).sum(1).T
    chosen = _chosen(dictionary, features, firing, estimates, exact_top)
    exact = _exact(model, dictionary, rows, measure, spliced, values, lost, chosen, progress=progress)
    what = "transcoder to" if is_transcoder else "dictionary of"
    return FeatureEffects(
        said=f"the {what} {spliced.name} spliced in" + (" and its error kept" if with_error else ""), metric=measure.name,
        is_patched=other_texts is not None,
        notes=measure.said, base=base, clean=clean, features=tuple(firing.tolist()), estimates=estimates.detach(), exact=exact,
        places=_places(lm, rows, lost[..., firing]),
    )  # fmt: skip


def feature_edits(
    dictionary: Dictionary,
    features: Sequence[int],
    values: Float[Tensor, "batch pos ..."],
    latents: Float[Tensor, "batch pos d_sae"],
    *,
    n_layers: int,
    is_even: bool = True,
) -> list[list[Edit]]:
    """Return for each feature the edits that take it out of the activation of a run, `values`, in which it has these latents.

    Of a transcoder that is its target. Each names only the positions where the feature fires, or all where rows end at different
    ones (`is_even`), and a sweep goes on from the first that changes. The end of a layer is edited where the next one begins: a
    dictionary spliced in before need not run again.
    """
    config = dictionary.config
    name = config.target if config.is_transcoder and config.target else config.name
    site = site_of(name)
    if site.part == "resid_post" and site.layer is not None and site.layer + 1 < n_layers:
        name = f"blocks.{site.layer + 1}.resid_pre"
    variants: list[list[Edit]] = []
    for feature in features:
        pos = (latents[..., feature] != 0).any(0).nonzero()[:, 0]
        if not len(pos):
            variants.append([])
            continue
        pos = pos if is_even else torch.arange(values.shape[1], device=values.device)
        old = values[:, pos]
        taken = latents[:, pos, feature, None] * dictionary.W_dec[feature]
        rest = old - taken.to(old.dtype).reshape(old.shape)
        variants.append([edits.replace(name, rest, pos=pos.tolist() if is_even else None)])
    return variants


def _exact(
    model: Transformer,
    dictionary: Dictionary,
    rows: Rows,
    measure: Measure,
    spliced: Edit,
    values: Tensor,
    latents: Tensor,
    chosen: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None,
) -> dict[int, Float[Tensor, " batch"]]:
    """Return the effect of each feature, as many at a time as their edits' values take little memory."""
    each = max(1, values[0].numel() * len(values) * values.element_size())
    size = max(1, _VALUES_BYTES // each)
    lengths = None if rows.is_even else rows.lengths
    held = spliced if spliced.source is None else edits.replace(spliced.name, values)  # a sweep resumes after what is a value
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            variants = feature_edits(dictionary, part, values, latents, n_layers=model.config.n_layers, is_even=rows.is_even)
            scores = sweep(model, rows.tokens, [[], *variants], measure.metric, base_edits=[held], lengths=lengths)
            found |= dict(zip(part, scores[1:] - scores[0], strict=True))
            if progress is not None:
                progress(len(found), len(chosen))
    return found


@torch.no_grad()
def _spliced(
    model: Transformer, dictionary: Dictionary, rows: Rows, spliced: Edit
) -> tuple[Float[Tensor, "batch pos ..."], Float[Tensor, "batch pos d_sae"]]:
    """Return what the dictionary puts into the run, and its latents there; none where rows are filled up."""
    name, reads = spliced.name, dictionary.config.name
    _, cache = run_with_cache(model, rows.tokens, sorted({name, reads}), stop_after_layer=layer_of(model, name))
    latents = _latents(dictionary, cache[reads], rows)
    if spliced.source is not None:
        assert spliced.function is not None
        return spliced.function(cache[name], cache[reads]), latents
    # row by row, as a sweep's base run does, bit for bit
    return torch.stack([spliced.new_value(row, None) for row in cache[name]]), latents


@torch.no_grad()
def _of_others(model: Transformer, dictionary: Dictionary, rows: Rows, others: Rows) -> Float[Tensor, "batch pos d_sae"]:
    """Return the latents in the runs of other texts; raises ValueError for texts of other lengths."""
    if (others.tokens.shape, others.lengths) != (rows.tokens.shape, rows.lengths):
        raise ValueError(
            f"the texts are rows of {', '.join(map(str, rows.lengths))} tokens and the other texts of "
            f"{', '.join(map(str, others.lengths))}: give another text of the same length for each"
        )
    reads = dictionary.config.name
    _, cache = run_with_cache(model, others.tokens, reads, stop_after_layer=layer_of(model, reads))
    return _latents(dictionary, cache[reads], others)


def _latents(dictionary: Dictionary, read: Float[Tensor, "batch pos ..."], rows: Rows) -> Float[Tensor, "batch pos d_sae"]:
    latents = dictionary.encode(as_vectors(read, dictionary.config.name).to(dictionary.W_enc.dtype))
    lengths = torch.tensor(rows.lengths, device=latents.device)
    is_text = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
    return latents * is_text[..., None]


def _places(lm: LanguageModel | Transformer, rows: Rows, lost: Float[Tensor, "batch pos feature"]) -> tuple[str, ...]:
    """Return where each feature loses most: position and token, with the row before them where there are several."""
    prompts = Prompts(lm, rows.tokens, rows.lengths, tuple(length - 1 for length in rows.lengths))
    n_rows, n_pos = rows.tokens.shape
    found = []
    for place in lost.abs().flatten(0, 1).argmax(0).tolist() if lost.shape[-1] else ():
        row, pos = divmod(place, n_pos)
        found.append(f"{f'text {row}, ' if n_rows > 1 else ''}{pos} {prompts.label(int(rows.tokens[row, pos]))}")
    return tuple(found)


def _chosen(dictionary: Dictionary, features: Sequence[int] | None, firing: Tensor, estimates: Tensor, exact_top: int) -> list[int]:
    if features is None:
        order = estimates.mean(1).abs().argsort(descending=True, stable=True)[:exact_top]
        best: list[int] = firing[order].tolist()
        return best
    if wrong := [each for each in features if not 0 <= each < dictionary.config.d_sae]:
        raise ValueError(f"there is no feature {wrong[0]}; there are {dictionary.config.d_sae}, 0 to {dictionary.config.d_sae - 1}")
    return list(features)
