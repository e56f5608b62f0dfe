"""How much each head matters: by taking it out, and by the gradient of a switch on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation.ablate import ablate
from cutaway.interp.ablation.measure import measure_of
from cutaway.interp.ablation.replacement import How
from cutaway.interp.attention import head_label
from cutaway.interp.metrics import Metric
from cutaway.interp.prompts import Target
from cutaway.interp.ranks import rank_correlation
from cutaway.interp.result import Result
from cutaway.interp.rows import Reference, Rows, Texts, model_of, rows_of
from cutaway.interp.running import gradients
from cutaway.interp.sweep import AnyMetric
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import grid, table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Per", "HeadImportance", "head_importance", "gradient_importance"]

Per = Literal["row", "position"]
"""Whose derivative has its sign taken off: that of a switch on a head for a whole row, or for each position by itself."""

_N_SHOWN, _N_LISTED = 12, 50


@dataclass(frozen=True, eq=False, repr=False)
class HeadImportance(Result):
    """Every head's importance by ablation and by gradient, and how far the two agree."""

    title: ClassVar[str] = "Head importance"
    source: ClassVar[str] = 'Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2 and section 3.2'

    effects: Float[Tensor, "layer head"]
    """The metric without a head less the metric with it, mean over rows."""
    by_ablation: Float[Tensor, "layer head"]
    """The size of that change in each row, mean over rows."""
    by_gradient: Float[Tensor, "layer head"]
    """`E |dM/d xi|`, with `xi` = 1 the switch that multiplies a head."""
    replacement: str
    """What took the place of an ablated head, in words."""
    metric: str
    per: Per
    is_normalized: bool
    """Whether both importances were divided by their length over each layer's heads."""
    n_rows: int
    said: tuple[str, ...] = ()
    """How answers were taken where not as given."""

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation of the two importances over all heads; 0 where all heads matter alike by one of them."""
        return rank_correlation(self.by_ablation.flatten(), self.by_gradient.flatten()) or 0.0

    def ranked(self, by: Literal["ablation", "gradient"] = "ablation", *, top: int | None = None) -> list[tuple[int, int]]:
        """Return the heads as (layer, head), the most important first."""
        scores = self.by_ablation if by == "ablation" else self.by_gradient
        order = scores.flatten().argsort(descending=True, stable=True)[:top].tolist()
        return [divmod(place, scores.shape[1]) for place in order]

    def summary(self) -> str:
        """Return the most important heads by either measure, and how far these agree."""
        ablated, derived = (", ".join(head_label(*head) for head in self.ranked(by, top=3)) for by in ("ablation", "gradient"))
        n_both = len(set(self.ranked("ablation", top=10)) & set(self.ranked("gradient", top=10)))
        said = "".join(f" {each[0].upper()}{each[1:]}." for each in self.said)
        return (
            f"Most important for the {self.metric} are by ablation ({self.replacement}) {ablated}, by gradient {derived}. "
            f"The ranks of all {self.effects.numel()} heads agree with a correlation of {self.rank_correlation:.2f} "
            f"(1 the same, 0 none); {n_both} of the first {min(10, self.effects.numel())} are in both.{self._columns_said}{said}"
        )

    @property
    def _columns_said(self) -> str:
        """What tells the change from the importance by ablation, where they are not one number with and without its sign."""
        if self.is_normalized:
            return " The change has its sign and is not divided by the length over the layer's heads, as importances are."
        if self.n_rows == 1:
            return ""
        return " The change is the mean over rows with its sign, by ablation that of its size: they part where rows' signs differ."

    def to_dict(self) -> dict[str, Any]:
        """Return both importances of every head, and their correlation."""
        return {
            "metric": self.metric,
            "replacement": self.replacement,
            "per": self.per,
            "normalized": self.is_normalized,
            "n_rows": self.n_rows,
            "notes": list(self.said),
            "rank_correlation": self.rank_correlation,
            "effects": self.effects.tolist(),
            "by_ablation": self.by_ablation.tolist(),
            "by_gradient": self.by_gradient.tolist(),
        }

    def figures(self) -> list[Figure]:
        """Return a map of layers by heads for each measure."""
        from cutaway.plots import heatmap

        n_layers, n_heads = self.effects.shape
        rows, columns = [f"L{layer}" for layer in range(n_layers)], [str(head) for head in range(n_heads)]
        maps = [("by ablation", self.by_ablation), ("by gradient", self.by_gradient)]
        return [
            heatmap(
                scores.numpy(force=True),
                rows=rows,
                columns=columns,
                title=f"Head importance {name}",
                row_title="layer",
                column_title="head",
                label=self.metric,
            )
            for name, scores in maps
        ]

    def views(self) -> list[RenderableType]:
        """Return the most important heads, and the map by ablation."""
        headers, rows = self.table()
        listed = table(*headers, right=headers[1:])
        for row in rows[:_N_SHOWN]:
            listed.add_row(*row)
        n_layers, n_heads = self.effects.shape
        cells = grid(
            self.by_ablation.numpy(force=True),
            rows=[str(layer) for layer in range(n_layers)],
            columns=[str(head) for head in range(n_heads)],
            corner="layer",
        )
        return [listed, cells]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the most important heads by ablation, with their ranks by gradient."""
        rank = {head: place + 1 for place, head in enumerate(self.ranked("gradient"))}
        rows = [
            (
                head_label(*head),
                f"{self.effects[head]:+.3f}",
                f"{self.by_ablation[head]:.3f}",
                f"{self.by_gradient[head]:.3f}",
                str(rank[head]),
            )
            for head in self.ranked(top=_N_LISTED)
        ]
        return ("head", "change", "by ablation", "by gradient", "rank"), rows


def head_importance(
    lm: LanguageModel | Transformer,
    texts: Texts,
    *,
    how: How = "zero",
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    reference: Reference | None = None,
    per: Per = "row",
    normalize: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadImportance:
    """Return every head's importance for a metric, the loss unless given: by ablation as in `ablate`, and by gradient.

    `normalize` divides both by their length over the heads of each layer. `progress` is called as in `cutaway.sweep`. Raises
    ValueError as `ablate` does.
    Source: Michel et al. 2019, section 3.2 and equation 2.
    """
    model = model_of(lm)
    asked: dict[str, Any] = {"metric": metric, "correct": correct, "wrong": wrong}
    ablated = ablate(lm, texts, what="head", how=how, reference=reference, seed=seed, progress=progress, **asked)
    changes = ablated.scores - ablated.base  # (layer head) batch
    shape = (model.config.n_layers, model.config.n_heads)
    sizes = changes.abs().mean(dim=1).reshape(shape)
    return HeadImportance(
        effects=changes.mean(dim=1).reshape(shape),
        by_ablation=_normalized(sizes) if normalize else sizes,
        by_gradient=gradient_importance(lm, texts, per=per, normalize=normalize, **asked),
        replacement=ablated.replacement,
        metric=ablated.metric,
        said=ablated.said,
        per=per,
        is_normalized=normalize,
        n_rows=len(ablated.base),
    )


def gradient_importance(
    lm: LanguageModel | Transformer,
    texts: Texts,
    *,
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    per: Per = "row",
    normalize: bool = False,
) -> Float[Tensor, "layer head"]:
    """Return `E |<z_h, dM/dz_h>|` of every head, mean over rows: the derivative of a switch `xi_h` = 1 that multiplies `z_h`.

    With `per="row"` the product is summed over positions before its sign is taken off: it is `|dM/d xi_h|` of a row. With
    `per="position"` each position has a switch of its own, and their absolute values are summed. `normalize` divides by the length
    over the heads of each layer. Source: Michel et al. 2019, equation 2; the normalisation after it (Molchanov et al. 2017).
    """
    if per not in ("row", "position"):
        raise ValueError(f"per is {per!r}; expected 'row' or 'position'")
    model, rows = model_of(lm), rows_of(lm, texts)
    measure = measure_of(lm, rows, metric, correct, wrong)
    model = without_dropout(model)
    _, z, dz = gradients(model, rows.tokens, _of_logits(rows, measure.metric), "blocks.*.attn.z")
    products = (z.stack("z") * dz.stack("z")).sum(dim=-1)  # layer batch pos head
    switches = products.sum(dim=2).abs() if per == "row" else products.abs().sum(dim=2)  # layer batch head
    scores = switches.mean(dim=1)
    return _normalized(scores) if normalize else scores


def _normalized(scores: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    lengths: Tensor = scores.norm(dim=1, keepdim=True)
    return scores / lengths.clamp_min(torch.finfo(scores.dtype).tiny)


def _of_logits(rows: Rows, metric: AnyMetric) -> AnyMetric:
    """Return the metric as a function of full logits, read within each row's own tokens."""
    if isinstance(metric, Metric) and not rows.is_even:
        return lambda logits: metric(logits, rows.lengths)
    return metric
