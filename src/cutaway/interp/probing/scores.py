"""How well a label is read at each layer and position, beside the nulls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.cache import ActivationCache
from cutaway.interp.probing.activations import Labels, Place, activations_in, activations_of, cache_rows, labelled_spots
from cutaway.interp.probing.kinds import MLP, Kind, KindName, Ridge, fit, kind_of
from cutaway.interp.probing.result import PlacedScore, ProbeScores
from cutaway.interp.probing.task import Label, Task, text_folds
from cutaway.interp.probing.validation import validate
from cutaway.interp.rows import Texts, rows_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

__all__ = ["Progress", "probe", "probe_cache", "probe_rows"]

Progress = Callable[[int, int], None]
"""Called with how many places are done of how many."""


def probe(
    lm: LanguageModel | Transformer,
    texts: Texts,
    labels: Labels,
    *,
    names: str | Sequence[str] = "blocks.*.resid_post",
    pos: int | Sequence[int] | None = -1,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Kind | KindName = "logistic",
    n_folds: int = 5,
    n_nulls: int = 5,
    with_control: bool = False,
    seed: int = 0,
    max_gib: float = 2.0,
    progress: Progress | None = None,
) -> ProbeScores:
    """Fit a probe to activations of labelled texts, at each layer and position, and return what it reads in texts held out.

    - `labels`: one a text, read at `pos` (or at each of several), from the text's end where negative; or with `pos=None` a list for
      each text, one label a token, None to leave one out. Numbers are predicted where `kind` is ridge, or an MLP given floats.
    - `groups`: what texts belong together, as variants of one sentence do: no group, as no text, is both learned and tested.
    - `kind`: `logistic`, `mean-difference`, `ridge`, `mlp`, or a value of these with settings, `Logistic(l2=1)`.
    - `n_nulls`: so many draws of shuffled labels, and `with_control` of control tasks too: a random label for each word type, the token
      that a row stands at (Hewitt and Liang 2019).

    Folds and draws follow from `seed`. Each place keeps the probe fitted on all rows. Raises ValueError for labels of one class only,
    fewer texts than folds, counts that do not match, and activations that hold no vector at each position.

    >>> import cutaway
    >>> lm = cutaway.load("greater-than")
    >>> years = [f"the war lasted from the year 17 {year} to the year 17" for year in range(10, 90)]
    >>> found = cutaway.probing.probe(lm, years, ["early" if year < 50 else "late" for year in range(10, 90)], n_folds=2, n_nulls=2)
    >>> found.best.validation.held_out.value > 0.9
    True
    """
    recipe = _Recipe(kind_of(kind), n_folds, n_nulls, with_control, seed)
    rows, is_number = rows_of(lm, texts), _predicts_numbers(recipe.kind, labels)
    positions = [pos] if pos is None or isinstance(pos, int) else list(pos)
    spots, tasks = zip(
        *(labelled_spots(rows, labels, pos=each, groups=groups, is_number=is_number) for each in positions), strict=True
    )
    found = activations_of(lm, names, spots, max_gib=max_gib)
    xs = {Place(name, at): x for name, of_spots in found.items() for at, x in zip(positions, of_spots, strict=True)}
    return _scored(xs, dict(zip(positions, tasks, strict=True)), recipe, progress)


def probe_cache(
    cache: ActivationCache,
    labels: Labels,
    *,
    names: str | Sequence[str] | None = None,
    pos: int | None = -1,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Kind | KindName = "logistic",
    progress: Progress | None = None,
    **settings: Any,
) -> ProbeScores:
    """Probe the activations of a cache, a text a row; all that it holds unless `names` are given. The rest is as in `probe`."""
    recipe = _Recipe(kind_of(kind), **settings)
    is_number = _predicts_numbers(recipe.kind, labels)
    spots, task = labelled_spots(cache_rows(cache), labels, pos=pos, groups=groups, is_number=is_number)
    xs = {Place(name, pos): x for name, x in activations_in(cache, names, spots).items()}
    return _scored(xs, {pos: task}, recipe, progress)


def probe_rows(
    x: Float[Tensor, "row d"] | Mapping[str, Float[Tensor, "row d"]],
    labels: Sequence[Label] | Tensor,
    *,
    groups: Sequence[Hashable] | Tensor | None = None,
    words: Sequence[Hashable] | Tensor | None = None,
    kind: Kind | KindName = "logistic",
    progress: Progress | None = None,
    **settings: Any,
) -> ProbeScores:
    """Probe rows of numbers, from wherever they come, or several tensors of the same rows by name.

    `groups` say which rows are of one text and `words` which type each stands at, as control tasks need. The rest is as in `probe`.
    """
    recipe = _Recipe(kind_of(kind), **settings)
    task = Task.of(labels, groups=groups, words=words, is_number=_predicts_numbers(recipe.kind, labels))
    named = x if isinstance(x, Mapping) else {"rows": x}
    return _scored({Place(name, None): each for name, each in named.items()}, {None: task}, recipe, progress)


@dataclass(frozen=True)
class _Recipe:
    """What is done at every place."""

    kind: Kind
    n_folds: int = 5
    n_nulls: int = 5
    with_control: bool = False
    seed: int = 0


def _scored(
    xs: Mapping[Place, Float[Tensor, "row d"]], tasks: Mapping[int | None, Task], recipe: _Recipe, progress: Progress | None
) -> ProbeScores:
    scores = []
    folds = {pos: text_folds(task, recipe.n_folds, seed=recipe.seed) for pos, task in tasks.items()}
    for number, (place, x) in enumerate(xs.items()):
        task = tasks[place.pos]
        fitted = replace(fit(x, task, kind=recipe.kind), name=place.name, pos=place.pos)
        wide = x.to(torch.float64)
        found = validate(
            wide,
            task,
            recipe.kind,
            folds=folds[place.pos],
            n_nulls=recipe.n_nulls,
            with_control=recipe.with_control,
            seed=recipe.seed,
        )
        scores.append(PlacedScore(place, found, fitted))
        if progress is not None:
            progress(number + 1, len(xs))
    task = next(iter(tasks.values()))
    return ProbeScores(
        kind=recipe.kind.name,
        settings={name: value for name, value in asdict(recipe.kind).items() if name != "name"},
        classes=task.classes,
        n_rows=len(task),
        n_groups=task.n_groups,
        n_types=None if task.words is None else len(task.words.unique()),
        n_folds=recipe.n_folds,
        n_nulls=recipe.n_nulls,
        n_whole=int(task.has_one_target.sum()),
        scores=tuple(scores),
    )


def _predicts_numbers(kind: Kind, labels: Labels) -> bool:
    """Whether a probe of this kind predicts numbers: ridge does, and an MLP that is given floats."""
    if not isinstance(kind, MLP):
        return isinstance(kind, Ridge)
    each: list[Any] = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    flat = [label for one in each for label in (one if isinstance(one, list | tuple) else [one]) if label is not None]
    return bool(flat) and all(isinstance(label, float) for label in flat)
