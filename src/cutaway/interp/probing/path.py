"""How a probe's score depends on its penalty."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.probing.activations import Labels, activations_of, labelled_spots
from cutaway.interp.probing.kinds import Logistic, Ridge, fit
from cutaway.interp.probing.probes import LinearProbe
from cutaway.interp.probing.task import Label, Task, text_folds
from cutaway.interp.probing.validation import Score, cross_validate, score
from cutaway.interp.result import Result
from cutaway.interp.rows import Texts, rows_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import filled_table, format_fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["RegularizationPath", "regularization_path", "text_path"]

_L2S = tuple(10.0**power for power in range(-4, 3))


@dataclass(frozen=True, eq=False, repr=False)
class RegularizationPath(Result):
    """The score of a linear probe, held out and on the rows it was fitted on, for each penalty."""

    title: ClassVar[str] = "Regularisation path"
    source: ClassVar[str] = 'Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical Learning", section 3.4'

    kind: str
    measure: str
    l2s: tuple[float, ...]
    held_out: tuple[Score, ...]
    fitted: tuple[float, ...]
    norms: tuple[float, ...]
    """The length of the weights of the probe fitted on all rows."""

    @property
    def best(self) -> float:
        """The largest penalty whose held-out score is within one standard error of the highest."""
        top = max(self.held_out, key=lambda each: each.value)
        return max(l2 for l2, each in zip(self.l2s, self.held_out, strict=True) if each.value >= top.value - top.standard_error)

    def summary(self) -> str:
        """Return the highest score and the largest penalty that is as good."""
        place = max(range(len(self.l2s)), key=lambda each: self.held_out[each].value)
        return (
            f"The {self.kind} probe's {self.measure} on texts held out is highest at l2 {self.l2s[place]:g}, "
            f"{self.held_out[place].value:.3f} ± {self.held_out[place].standard_error:.3f}; the largest l2 within one standard "
            f"error of that is {self.best:g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the scores of every penalty."""
        return {
            "kind": self.kind,
            "measure": self.measure,
            "l2": list(self.l2s),
            "held_out": [each.value for each in self.held_out],
            "standard_error": [each.standard_error for each in self.held_out],
            "fitted": list(self.fitted),
            "norm": list(self.norms),
            "best": self.best,
        }

    def figures(self) -> list[Figure]:
        """Return both scores over the logarithm of the penalty."""
        from cutaway.plots import lines

        x = torch.tensor(self.l2s).log10().tolist()
        curves = {"held out": (x, [each.value for each in self.held_out]), "fitted on": (x, list(self.fitted))}
        return [lines(curves, title=f"{self.kind} probe by penalty", x_label="log10 of l2", y_label=self.measure)]

    def views(self) -> list[RenderableType]:
        """Return the scores as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the scores of every penalty."""
        rows = [
            (f"{l2:g}", format_fixed(held.value, 3), format_fixed(held.standard_error, 3), format_fixed(fitted, 3), f"{norm:.3g}")
            for l2, held, fitted, norm in zip(self.l2s, self.held_out, self.fitted, self.norms, strict=True)
        ]
        return ("l2", f"held-out {self.measure}", "± se", "on fitted", "|W|"), rows


def regularization_path(
    x: Float[Tensor, "row d"],
    labels: Sequence[Label] | Tensor,
    *,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Logistic | Ridge | None = None,
    l2s: Sequence[float] = _L2S,
    n_folds: int = 5,
    seed: int = 0,
) -> RegularizationPath:
    """Fit a linear probe with each of several penalties, on the same folds of texts; logistic regression unless `kind` is ridge."""
    chosen = kind or Logistic()
    task = Task.of(labels, groups=groups, is_number=isinstance(chosen, Ridge))
    return _path(x, task, chosen, l2s, text_folds(task, n_folds, seed=seed))


def text_path(
    lm: LanguageModel | Transformer,
    texts: Texts,
    labels: Labels,
    *,
    name: str,
    pos: int | None = -1,
    groups: Sequence[Hashable] | Tensor | None = None,
    kind: Logistic | Ridge | None = None,
    l2s: Sequence[float] = _L2S,
    n_folds: int = 5,
    seed: int = 0,
) -> RegularizationPath:
    """Return the regularisation path of one activation of labelled texts, which are given as in `probe`."""
    chosen = kind or Logistic()
    spots, task = labelled_spots(rows_of(lm, texts), labels, pos=pos, groups=groups, is_number=isinstance(chosen, Ridge))
    folds = text_folds(task, n_folds, seed=seed)
    [[x]] = activations_of(lm, name, [spots]).values()
    return _path(x, task, chosen, l2s, folds)


def _path(
    x: Float[Tensor, "row d"], task: Task, kind: Logistic | Ridge, l2s: Sequence[float], folds: Int[Tensor, " row"]
) -> RegularizationPath:
    wide = x.to("cpu", torch.float64)
    held_out, fitted, norms = [], [], []
    for l2 in l2s:
        each = replace(kind, l2=float(l2))
        predictions, on_fitted = cross_validate(wide, task, each, folds=folds)
        whole = fit(wide, task, kind=each)
        assert isinstance(whole, LinearProbe)
        held_out.append(score(task, predictions))
        fitted.append(on_fitted)
        norms.append(float(whole.W.norm()))
    measure = "R²" if task.is_number else "accuracy"
    return RegularizationPath(kind.name, measure, tuple(map(float, l2s)), tuple(held_out), tuple(fitted), tuple(norms))
