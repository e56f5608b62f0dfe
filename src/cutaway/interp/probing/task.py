"""What rows of activations are to be told apart by: a label for each, and which text each is of."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from cutaway.runtime import seeded_generator

__all__ = ["Label", "Task", "text_folds"]

Label = str | int | float | bool
"""What a text, or a token of it, is called: a class by any name, or a number."""


@dataclass(frozen=True, eq=False)
class Task:
    """A target for every row, and what the rows have to do with each other."""

    targets: Shaped[Tensor, " row"]
    """The number of each row's class; the number itself where numbers are predicted."""
    classes: tuple[Label, ...]
    """The classes in order; none where numbers are predicted."""
    groups: Int[Tensor, " row"]
    """Which text each row is of, or which set of texts that belong together."""
    words: Int[Tensor, " row"] | None = None
    """The type of the word that each row stands at: its token."""

    @classmethod
    def of(
        cls,
        labels: Sequence[Label] | Tensor,
        *,
        groups: Sequence[Hashable] | Tensor | None = None,
        words: Sequence[Hashable] | Tensor | None = None,
        is_number: bool = False,
    ) -> Self:
        """Return the task of these labels, one a row; without `groups` each row is a text of its own.

        Raises ValueError for labels of one class only, labels that are no numbers where numbers are wanted, and counts that differ.
        """
        given: list[Label] = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        for what, others in (("groups", groups), ("words", words)):
            if others is not None and len(others) != len(given):
                raise ValueError(f"there are {len(given)} labels and {len(others)} {what}: give one of each for every row")
        _check_labels(given, is_number=is_number)
        numbers = None if words is None else _numbered(words)
        coded = _numbered(range(len(given)) if groups is None else groups)
        if is_number:
            return cls(torch.tensor([float(label) for label in given], dtype=torch.float64), (), coded, numbers)
        classes = _in_order(given)
        places = {label: place for place, label in enumerate(classes)}
        return cls(torch.tensor([places[label] for label in given]), classes, coded, numbers)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_number(self) -> bool:
        """Whether numbers are predicted, not classes."""
        return not self.classes

    @property
    def n_groups(self) -> int:
        """How many texts, or sets of them, the rows are of."""
        return len(self.groups.unique())

    @property
    def majority(self) -> float:
        """The accuracy of always saying the most common class; of numbers the R² of always saying their mean, which is 0."""
        return 0.0 if self.is_number else float(self.targets.bincount().max()) / len(self)

    def check_two_classes(self) -> None:
        """Raise ValueError unless there are two classes, each of which can go to the other."""
        if len(self.classes) != 2:
            raise ValueError(f"the labels are of {len(self.classes)} classes: give texts of two, each of which goes to the other")

    def of_rows(self, chosen: Bool[Tensor, " row"]) -> Task:
        """Return the task of some of its rows."""
        words = None if self.words is None else self.words[chosen]
        groups = self.groups[chosen].unique(return_inverse=True)[1]
        return replace(self, targets=self.targets[chosen], groups=groups, words=words)

    @property
    def has_one_target(self) -> Bool[Tensor, " group"]:
        """Whether all rows of a group have the same target."""
        spread = (torch.zeros(self.n_groups, dtype=self.targets.dtype) for _ in range(2))
        least, most = (
            each.scatter_reduce(0, self.groups, self.targets, how, include_self=False)
            for each, how in zip(spread, ("amin", "amax"), strict=True)
        )
        return least == most

    def shuffled(self, generator: torch.Generator) -> Task:
        """Return the task with its labels dealt out anew at random: a label that a whole group has goes to a whole group.

        Rows of one text resemble each other, so labels dealt to them one by one would say too little of what chance gives. Labels of
        groups that have several go to any row of such groups.
        """
        is_whole = self.has_one_target
        n = self.n_groups
        first = torch.full((n,), len(self)).scatter_reduce(0, self.groups, torch.arange(len(self)), "amin")
        of_group, whole = self.targets[first], is_whole.nonzero()[:, 0]
        of_group[whole] = of_group[whole[torch.randperm(len(whole), generator=generator)]]
        targets = of_group[self.groups]
        single = (~is_whole[self.groups]).nonzero()[:, 0]
        targets[single] = self.targets[single[torch.randperm(len(single), generator=generator)]]
        return replace(self, targets=targets)

    def control(self, generator: torch.Generator) -> Task:
        """Return the control task: one label for every word type, dealt at random so that rows have each about as often as in the task.

        What a probe gets right there it has memorised, as nothing in the text says it. Two types at least differ, as one label for all
        would be no task. Raises ValueError where the types are not known, or all the same. Source: Hewitt and Liang 2019, "Designing
        and Interpreting Probes with Control Tasks", section 2, where labels are drawn; dealt ones leave shares, and so scores, alike.
        """
        if self.words is None:
            raise ValueError("a control task gives each word type a label, and the types are not known: give words, one a row")
        n_rows = self.words.bincount()  # of each type; none in the types of other rows
        n_types = int((n_rows > 0).sum())
        if n_types < 2:
            raise ValueError(
                f"all {len(self)} rows stand at the same token, to which a control task can give one label only: "
                "take another position, or label every token"
            )
        of_type = self._spread(n_rows, generator) if self.is_number else self._dealt(n_rows, generator)
        return replace(self, targets=of_type[self.words])

    def _dealt(self, n_rows: Int[Tensor, " type"], generator: torch.Generator) -> Int[Tensor, " type"]:
        """Return a class for each type: types of many rows come first, and draw among classes that still want as many."""
        wanted = self.targets.bincount(minlength=len(self.classes)).tolist()
        order = torch.randperm(len(n_rows), generator=generator)
        order = order[n_rows[order].argsort(descending=True, stable=True)][: int((n_rows > 0).sum())]
        found = torch.zeros_like(n_rows)
        drawn = torch.rand(len(order), generator=generator, dtype=torch.float64).tolist()
        for of_type, n, part in zip(order.tolist(), n_rows[order].tolist(), drawn, strict=True):
            most = max(wanted)
            chances = list(accumulate(each if n <= each or most == each < n else 0 for each in wanted))
            found[of_type] = label = bisect(chances, part * chances[-1])
            wanted[label] -= n
        if len(found[order].unique()) == 1:  # each other class is rarer than any type: the rarest type has one all the same
            wanted[label] = -len(self)
            found[order[-1]] = wanted.index(max(wanted))
        return found

    def _spread(self, n_rows: Int[Tensor, " type"], generator: torch.Generator) -> Shaped[Tensor, " type"]:
        """Return a number for each type: types in a random order stand side by side along the rows' numbers in order of size."""
        order = torch.randperm(len(n_rows), generator=generator)
        ends = n_rows[order].cumsum(0)
        numbers = self.targets.sort().values
        found = torch.empty(len(n_rows), dtype=numbers.dtype)
        found[order] = numbers[(ends - n_rows[order] // 2 - 1).clamp_min(0)]
        present = order[n_rows[order] > 0]
        if len(found[present].unique()) == 1:
            found[present[-1]] = numbers[-1] if numbers[-1] != found[present[-1]] else numbers[0]
        return found


def text_folds(task: Task, n_folds: int, *, seed: int) -> Int[Tensor, " row"]:
    """Return the fold of every row: rows of one text share theirs, and texts of each class are dealt out evenly.

    Raises ValueError for fewer texts than folds, and for a class that comes in one text alone.
    """
    n_groups = task.n_groups
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}: give at least 2, one to test on and the rest to learn from")
    if n_groups < n_folds:
        raise ValueError(
            f"there are {n_groups} texts (the same ones, and those of a group, count once) and {n_folds} folds: give more texts, or "
            f"n_folds of at most {n_groups}"
        )
    first = torch.full((n_groups,), len(task)).scatter_reduce(0, task.groups, torch.arange(len(task)), "amin")
    order = torch.randperm(n_groups, generator=seeded_generator(seed))
    if not task.is_number:
        order = order[task.targets[first][order].argsort(stable=True)]
    fold_of_group = torch.empty(n_groups, dtype=torch.long)
    fold_of_group[order] = torch.arange(n_groups) % n_folds
    folds = fold_of_group[task.groups]
    for place, label in enumerate(task.classes):
        if len(folds[task.targets == place].unique()) < 2:
            raise ValueError(
                f"the label {label!r} is of too few texts to learn it from some and test it on others: give more of it, or leave it out"
            )
    return folds


def _check_labels(labels: Sequence[Label], *, is_number: bool) -> None:
    if not labels:
        raise ValueError("there are no labels: give one for every row")
    if is_number:
        for label in labels:
            if isinstance(label, str) or not math.isfinite(label):
                raise ValueError(
                    f"the label {label!r} is no number, which a ridge probe predicts: give numbers, or another kind of probe"
                )
    if len(set(labels)) < 2:
        raise ValueError(
            f"all {len(labels)} labels are {labels[0]!r}: a probe tells {'numbers' if is_number else 'classes'} apart, "
            "so give rows of at least two"
        )
    if not is_number and len(set(labels)) > max(2, len(labels) // 2):
        label, n = Counter(labels).most_common()[-1]
        raise ValueError(
            f"there are {len(set(labels))} different labels in {len(labels)} rows ({label!r} comes {n} time{'s' * (n > 1)}): "
            "for numbers give the kind 'ridge'; for classes give more rows of each"
        )


def _numbered(values: Sequence[Hashable] | Tensor) -> Int[Tensor, " row"]:
    """Return values as numbers from 0, in the order in which they first come."""
    seen: dict[Hashable, int] = {}
    each = values.tolist() if isinstance(values, Tensor) else values
    return torch.tensor([seen.setdefault(value, len(seen)) for value in each], dtype=torch.long)


def _in_order(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return the different labels, numbers by size and words by the alphabet."""
    return tuple(
        sorted(set(labels), key=lambda label: (isinstance(label, str), label if not isinstance(label, str) else 0, str(label)))
    )
