"""Activations pushed along a probe's direction, without it, and moved to the other class: one sweep for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp import edits
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric, logit_diff
from cutaway.interp.probing.activations import Spots, activations_of, labelled_spots
from cutaway.interp.probing.causation import Causation, Intervention
from cutaway.interp.probing.kinds import Kind, KindName, fit
from cutaway.interp.probing.probes import LinearProbe, Probe
from cutaway.interp.probing.task import Label, text_folds
from cutaway.interp.prompts import Prompts
from cutaway.interp.rows import Texts, model_of, rows_of, some_texts
from cutaway.interp.sites import site_of
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator
from cutaway.views import without_dropout

__all__ = ["cause", "cause_held_out"]


def cause(
    lm: LanguageModel | Transformer,
    probe: Probe,
    texts: Texts,
    labels: Sequence[Label] | None = None,
    *,
    between: tuple[Label, Label] | None = None,
    answers: Mapping[Label, str | int] | None = None,
    metric: AnyMetric | None = None,
    pos: int | None = None,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    n_random: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Causation:
    """Edit what a linear probe reads, along its direction, and return how often what the model does flips.

    A *push* of s adds s times the distance between the means of the two classes, towards the other class (`edits.add`); *remove* takes
    the direction away (`edits.project`); *flip* puts the other class's mean along the direction in the place of the text's own
    (`edits.swap`). The null moves each text's activation by the very same amounts, signs and all, along each of `n_random` directions
    drawn with `seed`, and so by vectors of the same length.

    The behaviour is, with `answers`, a token for each class, whether the model gives its own class's token a higher logit than the
    other's; with `metric` the sign of that; otherwise the likeliest next token. A text's class is its label, or without labels what the
    probe reads. `pos` is where the activation is changed, the probe's own position unless given, or the last for a probe of all tokens.
    Raises ValueError for a probe without a direction, of more classes than `between` names, and where no text is answered as its class
    wants.
    """
    linear, pair = _checked(probe, between)
    at = pos if pos is not None else -1 if linear.pos is None else linear.pos
    found = _outcome(lm, linear, pair, texts, labels, answers, metric, at, strengths, n_random, seed, progress)
    return _causation([found], linear.name, at, pair, strengths, is_held_out=False)


def cause_held_out(
    lm: LanguageModel | Transformer,
    texts: Texts,
    labels: Sequence[Label],
    *,
    name: str,
    pos: int = -1,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Kind | KindName = "logistic",
    answers: Mapping[Label, str | int] | None = None,
    n_folds: int = 5,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    n_random: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Causation:
    """Do as `cause` does to texts of two classes, each with a probe that was fitted on the other folds of texts, as in `probe`.

    `name` and `pos` say what is read and edited. Raises ValueError as `cause` and `probe` do.
    """
    rows = rows_of(lm, texts)
    spots, task = labelled_spots(rows, labels, pos=pos, groups=groups)
    task.check_two_classes()
    folds = text_folds(task, n_folds, seed=seed)
    x = activations_of(lm, name, [spots])[name][0]
    found = []
    for fold in range(n_folds):
        held_out = folds == fold
        fitted = replace(fit(x[~held_out], task.of_rows(~held_out), kind=kind), name=name, pos=pos)
        linear, pair = _checked(fitted, None)
        index = held_out.nonzero()[:, 0].tolist()
        chosen = some_texts(texts, index)
        own = [labels[i] for i in index]
        found.append(_outcome(lm, linear, pair, chosen, own, answers, None, pos, strengths, n_random, seed, None))
        if progress is not None:
            progress(fold + 1, n_folds)
    return _causation(found, name, pos, (task.classes[0], task.classes[1]), strengths, is_held_out=True)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What became of some texts under every edit, those along random directions last."""

    counted: Bool[Tensor, " batch"]
    flipped: Bool[Tensor, "edited batch"]
    gap: float
    behaviour: str


def _outcome(
    lm: LanguageModel | Transformer,
    probe: LinearProbe,
    pair: tuple[Label, Label],
    texts: Texts,
    labels: Sequence[Label] | None,
    answers: Mapping[Label, str | int] | None,
    metric: AnyMetric | None,
    at: int,
    strengths: Sequence[float],
    n_random: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> _Outcome:
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}: give at least 1 random direction to compare with")
    model, rows = model_of(lm), rows_of(lm, texts)
    x = activations_of(lm, probe.name, [Spots.at_position(rows, at)])[probe.name][0]
    is_second = _sides(probe, pair, x, labels)
    behaviour = _behaviour(lm, texts, pair, is_second, answers, metric)
    moves = _Moves.of(probe, pair, x, is_second, at=at, dtype=model.embed.W_E.dtype)
    randoms = _random_directions(x.shape[1], n_random, seed)
    variants = [[], *moves.along_own(strengths), *(edit for each in randoms for edit in moves.along_random(each, strengths))]
    lengths = None if rows.is_even else rows.lengths
    model = without_dropout(model)
    with torch.no_grad():
        scores = sweep(model, rows.tokens, variants, behaviour.metric, lengths=lengths, progress=progress)
    return _Outcome(*behaviour.flips(scores.cpu()), moves.gap, behaviour.words)


def _causation(
    outcomes: Sequence[_Outcome],
    name: str,
    pos: int,
    pair: tuple[Label, Label],
    strengths: Sequence[float],
    *,
    is_held_out: bool,
) -> Causation:
    """Return what became of all texts; raises ValueError where none counts."""
    counted, flipped = torch.cat([each.counted for each in outcomes]), torch.cat([each.flipped for each in outcomes], dim=1)
    if not bool(counted.any()):
        raise ValueError(
            "the model gives no text's own answer a higher logit than the other, so nothing can flip: "
            "look at the labels, the answers and where the texts end"
        )
    return Causation(
        name=name,
        pos=pos,
        classes=(str(pair[0]), str(pair[1])),
        behaviour=outcomes[0].behaviour,
        gap=sum(each.gap for each in outcomes) / len(outcomes),
        is_held_out=is_held_out,
        n_texts=len(counted),
        n_counted=int(counted.sum()),
        interventions=_interventions(flipped[:, counted].double(), strengths),
    )


@dataclass(frozen=True, eq=False)
class _Moves:
    """How far each text's activation goes along a direction to the mean of the other class."""

    name: str
    at: int
    direction: Float[Tensor, " d"]
    towards: Float[Tensor, " batch"]
    """1 for texts of the first class, which go to the second, and -1 for the others."""
    gap: float
    own: Float[Tensor, " batch"]
    """Where each text's activation lies along the direction."""
    other: Float[Tensor, " batch"]
    """Where the other class's mean lies along it."""
    dtype: torch.dtype

    @classmethod
    def of(
        cls, probe: LinearProbe, pair: tuple[Label, Label], x: Tensor, is_second: Tensor, *, at: int, dtype: torch.dtype
    ) -> _Moves:
        direction = probe.between(*pair)
        first, second = (probe.means[probe.classes.index(label)] @ direction for label in pair)
        other = torch.where(is_second, first, second)
        towards = 1.0 - 2.0 * is_second.to(direction.dtype)
        return cls(probe.name, at, direction, towards, float((second - first).abs()), x.to(direction) @ direction, other, dtype)

    def along_own(self, strengths: Sequence[float]) -> list[list[Edit]]:
        pushes = [self._add(self.direction, by) for by in self._pushes(strengths)]
        goal = (self.other[:, None] * self.direction).to(self.dtype)
        flip = edits.swap(self.name, self.direction.to(self.dtype), goal, pos=self.at)
        return [*pushes, [edits.project(self.name, self.direction.to(self.dtype), pos=self.at)], [flip]]

    def along_random(self, direction: Tensor, strengths: Sequence[float]) -> list[list[Edit]]:
        """Return for each edit of `along_own` one that moves every activation by as much along another direction.

        Taking that direction away would be no such edit: activations have far less of a random direction than of the probe's.
        """
        return [self._add(direction, by) for by in (*self._pushes(strengths), -self.own, self.other - self.own)]

    def _pushes(self, strengths: Sequence[float]) -> list[Float[Tensor, " batch"]]:
        return [self.towards * each * self.gap for each in strengths]

    def _add(self, direction: Float[Tensor, " d"], by: Float[Tensor, " batch"]) -> list[Edit]:
        return [edits.add(self.name, (by[:, None] * direction).to(self.dtype), pos=self.at)]


@dataclass(frozen=True, eq=False)
class _Behaviour:
    """What the model does, as a number a text."""

    metric: AnyMetric
    words: str
    is_sign: bool
    """Whether it flips where the number's sign does, or where the number changes."""
    is_counted: bool
    """Whether texts whose number is not above 0 are left out."""

    def flips(self, scores: Float[Tensor, "variant batch"]) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, "edited batch"]]:
        """Return which texts count, and where an edited run does otherwise than the first, unedited one."""
        base, edited = scores[0], scores[1:]
        counted = base > 0 if self.is_counted else torch.ones_like(base, dtype=torch.bool)
        return counted, (edited > 0) != (base > 0) if self.is_sign else edited != base


class _TopToken(Metric):
    """The likeliest next token's id, as a number."""

    pos = -1

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        return logits[:, 0].argmax(-1).to(torch.promote_types(logits.dtype, torch.float32))


def _checked(probe: Probe, between: tuple[Label, Label] | None) -> tuple[LinearProbe, tuple[Label, Label]]:
    """Return the probe and the two classes in question."""
    if not isinstance(probe, LinearProbe):
        raise ValueError(f"a probe of kind {probe.kind} reads along no direction: take a linear one")  # noqa: TRY004 (data)
    if not probe.classes:
        raise ValueError("the probe predicts a number, which has no other class to move to: take one of classes")
    if not probe.name or site_of(probe.name).axes[1:] not in (("pos", "d_model"), ("pos", "d_mlp")):
        raise ValueError(
            f"the probe reads {probe.name or 'rows from elsewhere'!r}, and what is edited is a vector of the stream or of an MLP: "
            "probe one of those"
        )
    if between is None and len(probe.classes) > 2:
        raise ValueError(f"the probe tells {len(probe.classes)} classes apart: name two of them, between=(a, b)")
    first, second = between or probe.classes
    probe.between(first, second)  # refuses what is none of its classes
    return probe, (first, second)


def _sides(
    probe: LinearProbe, pair: tuple[Label, Label], x: Float[Tensor, "batch d"], labels: Sequence[Label] | None
) -> Bool[Tensor, " batch"]:
    """Return which texts are of the second class: by their labels, or by what the probe reads."""
    if labels is None:
        first, second = (probe.scores(x)[:, probe.classes.index(label)] for label in pair)
        found: Tensor = second > first
        return found
    if len(labels) != len(x):
        raise ValueError(f"there are {len(x)} texts and {len(labels)} labels: give one for each, or none")
    if unknown := [label for label in labels if label not in pair]:
        raise ValueError(f"the label {unknown[0]!r} is neither {pair[0]!r} nor {pair[1]!r}: leave such texts out")
    return torch.tensor([label == pair[1] for label in labels])


def _behaviour(
    lm: LanguageModel | Transformer,
    texts: Texts,
    pair: tuple[Label, Label],
    is_second: Bool[Tensor, " batch"],
    answers: Mapping[Label, str | int] | None,
    metric: AnyMetric | None,
) -> _Behaviour:
    if answers is not None and metric is not None:
        raise ValueError("give answers or a metric, not both: the answers are a metric")
    if metric is not None:
        return _Behaviour(metric, "the sign of the metric", is_sign=True, is_counted=False)
    if answers is None:
        return _Behaviour(_TopToken(), "the likeliest next token", is_sign=False, is_counted=False)
    if missing := [label for label in pair if label not in answers]:
        raise ValueError(f"there is no answer for {missing[0]!r}: give a token for each of {pair[0]!r} and {pair[1]!r}")
    prompts = Prompts.of(lm, texts)
    first, second = (torch.tensor(prompts.target_ids(answers[label])[0]) for label in pair)
    if bool((first == second).any()):
        raise ValueError(f"both classes have the answer {answers[pair[0]]!r}: give two tokens that differ")
    own, other = torch.where(is_second, second, first), torch.where(is_second, first, second)
    words = f"which of {prompts.label(int(first[0]))} and {prompts.label(int(second[0]))} is likelier"
    return _Behaviour(logit_diff(own.tolist(), other.tolist()), words, is_sign=True, is_counted=True)


def _random_directions(d: int, n: int, seed: int) -> Float[Tensor, "direction d"]:
    drawn = torch.randn(n, d, generator=seeded_generator(seed), dtype=torch.float64)
    units: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return units


def _interventions(flipped: Float[Tensor, "edited counted"], strengths: Sequence[float]) -> tuple[Intervention, ...]:
    """Return the share flipped by each edit: those of the probe's direction come first, then those of each random one."""
    labels = [*(f"push {each:g}" for each in strengths), "remove", "flip"]
    n_texts = flipped.shape[1]
    shares = flipped.mean(dim=1).reshape(-1, len(labels))  # direction intervention
    errors = [math.sqrt(share * (1 - share) / max(n_texts - 1, 1)) for share in shares[0].tolist()]
    return tuple(
        Intervention(label, float(shares[0, i]), errors[i], tuple(shares[1:, i].tolist())) for i, label in enumerate(labels)
    )
