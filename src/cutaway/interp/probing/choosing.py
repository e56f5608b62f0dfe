"""A place chosen on some texts and put to the test on others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cutaway.interp.probing.activations import activations_of, labelled_spots
from cutaway.interp.probing.causation import Causation, Choice
from cutaway.interp.probing.causing import cause
from cutaway.interp.probing.kinds import Kind, KindName
from cutaway.interp.probing.scores import probe
from cutaway.interp.probing.task import Label, text_folds
from cutaway.interp.probing.validation import score
from cutaway.interp.rows import Texts, rows_of, some_texts
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

__all__ = ["choose_and_cause"]


def choose_and_cause(
    lm: LanguageModel | Transformer,
    texts: Texts,
    labels: Sequence[Label],
    *,
    names: str | Sequence[str] = "blocks.*.resid_post",
    pos: int | Sequence[int] = -1,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Kind | KindName = "logistic",
    answers: Mapping[Label, str | int] | None = None,
    n_folds: int = 5,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    n_random: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Causation:
    """Choose the place where labels are read best and fit a probe there on half of the texts, and do as `cause` does on the others.

    The place is the one of the highest score over `n_folds` folds of the first half, and the probe is fitted on all of that half. A
    choice and a test on the same texts would favour places that happen to do well on them. Labels are of two classes, one a text; texts
    of one group, and texts that are the same, stay on one side. Raises ValueError as `probe` and `cause` do.
    """
    positions = [pos] if isinstance(pos, int) else list(pos)
    spots, task = labelled_spots(rows_of(lm, texts), labels, pos=positions[0], groups=groups)
    task.check_two_classes()
    is_first = text_folds(task, 2, seed=seed) == 0
    learned, tested = is_first.nonzero()[:, 0].tolist(), (~is_first).nonzero()[:, 0].tolist()
    found = probe(
        lm, some_texts(texts, learned), [labels[row] for row in learned], names=names, pos=positions,
        groups=task.groups[is_first], kind=kind, n_folds=n_folds, n_nulls=1, seed=seed, progress=progress,
    )  # fmt: skip
    place, chosen = found.best.place, found.best.probe
    assert place.pos is not None
    others, own = some_texts(texts, tested), [labels[row] for row in tested]
    causes = cause(lm, chosen, others, own, answers=answers, strengths=strengths, n_random=n_random, seed=seed)
    spots, of_others = labelled_spots(rows_of(lm, others), own, pos=place.pos, groups=task.groups[~is_first])
    x = activations_of(lm, place.name, [spots])[place.name][0]
    accuracy = score(of_others, chosen.predict(x.to(torch.float64)))
    return replace(causes, is_held_out=True, chosen=Choice(len(found.scores), len(learned), accuracy))
