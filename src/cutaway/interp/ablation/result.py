"""What an ablation found: the metric without each unit beside the metric of the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation.units import Unit, What
from cutaway.interp.result import Result
from cutaway.report import grid, table, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Ablation", "Effect"]

_N_SHOWN, _N_BARS, _N_LISTED = 12, 30, 50
_MOST_COLUMNS = 64  # of a map of layers by heads or positions; neurons are more
_NOUNS: dict[str, str] = {
    "head": "head", "attn": "attention layer", "mlp": "MLP", "layer": "layer", "neuron": "neuron", "position": "position",
    "head sets": "set of heads",
}  # fmt: skip


class Effect(NamedTuple):
    """A unit, and the metric without it less the metric with it, mean over rows."""

    unit: Unit
    effect: float


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Result):
    """A metric of every row, of the whole model and without each unit."""

    title: ClassVar[str] = "Ablation"
    source: ClassVar[str] = (
        'Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 3.2 (zeros); Wang et al. 2022, "Interpretability in '
        'the Wild", section 2.1 (means); Chan et al. 2022, "Causal Scrubbing" (resampling)'
    )

    what: What | Literal["head sets"]
    replacement: str
    """What took the place of what was ablated, in words."""
    metric: str
    """What the metric is called."""
    pos: int | None
    """The position that was ablated; None for all."""
    units: tuple[Unit, ...]
    base: Float[Tensor, " batch"]
    """The metric of the whole model."""
    scores: Float[Tensor, "unit batch"]
    """The metric without each unit."""
    tokens: tuple[str, ...] = ()
    """The tokens of the row, where there was one."""
    said: tuple[str, ...] = ()
    """How answers were taken where not as given."""

    @property
    def effects(self) -> Float[Tensor, " unit"]:
        """How much higher the metric is without each unit, mean over rows; below zero where it is lower."""
        return (self.scores - self.base).mean(dim=1)

    def effect(self, label: str) -> float:
        """Return the effect of the unit of this label; raises KeyError where there is none."""
        labels = [unit.label for unit in self.units]
        if label not in labels:
            raise KeyError(f"nothing called {label!r} was ablated; there are {', '.join(labels[:8])}{', ...' * (len(labels) > 8)}")
        return float(self.effects[labels.index(label)])

    def ranked(self, *, top: int | None = None) -> list[Effect]:
        """Return the units with their effects, the greatest first, whichever way it goes."""
        effects = self.effects
        order = effects.abs().argsort(descending=True, stable=True)[:top].tolist()
        return [Effect(self.units[place], float(effects[place])) for place in order]

    def matrix(self) -> Float[Tensor, "layer index"] | None:
        """Return the effects by layer and head, neuron or position; None for units that have no index."""
        layers = self._layers()
        if not self.units or self.units[0].index is None:
            return None
        return self.effects.reshape(len(layers), -1)  # units come layer by layer

    def summary(self) -> str:
        """Return the metric of the whole model, and without which units it changes most."""
        noun, base = _NOUNS[self.what], float(self.base.mean())
        where = "" if self.pos is None else f" at position {self.pos}"
        ranked = self.ranked()
        strongest = ", ".join(f"{self._name(unit)} {effect:+.3f}" for unit, effect in ranked[:3])
        n_rows = f", mean of {len(self.base)} rows" if len(self.base) > 1 else ""
        median = float(self.effects.abs().median())
        said = "".join(f" {each[0].upper()}{each[1:]}." for each in self.said)
        return (
            f"The {self.metric} is {base:.3f}{n_rows}. Each {noun} was replaced{where} by {self.replacement}: most is changed "
            f"without {strongest}; the median of {len(ranked)} changes it by {median:.3f}.{said}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every unit with its effect and its rows, in the order of the model."""
        effects = self.effects.tolist()
        return {
            "what": self.what,
            "replacement": self.replacement,
            "metric": self.metric,
            "pos": self.pos,
            "notes": list(self.said),
            "tokens": list(self.tokens),
            "base": self.base.tolist(),
            "units": [
                {"label": unit.label, "layer": unit.layer, "index": unit.index, "effect": effect, "rows": rows}
                for unit, effect, rows in zip(self.units, effects, self.scores.tolist(), strict=True)
            ],
        }

    def figures(self) -> list[Figure]:
        """Return the effects as a map of layers, or as bars where a layer has one unit, or very many."""
        from cutaway.plots import bars, heatmap

        matrix, title = self.matrix(), f"Ablation: change of the {self.metric}"
        if matrix is None or matrix.shape[1] > _MOST_COLUMNS:
            top = _N_BARS if len(self.units) > _N_BARS else None
            return [bars(self.effects.numpy(force=True), labels=self._names(), title=title, label=self.metric, top=top)]
        return [
            heatmap(
                matrix.numpy(force=True),
                rows=[f"L{layer}" for layer in self._layers()],
                columns=self._columns(),
                title=title,
                row_title="layer",
                column_title=self.what,
                label=self.metric,
                signed=True,
            )
        ]

    def views(self) -> list[RenderableType]:
        """Return the strongest effects, and the map where it is small enough to read."""
        headers, rows = self.table()
        strongest = table(*headers, right=headers[1:])
        for row in rows[:_N_SHOWN]:
            strongest.add_row(*row)
        matrix = self.matrix()
        if matrix is None or matrix.shape[1] > _MOST_COLUMNS or len(matrix) < 2:
            return [strongest]
        rows_said = [str(layer) for layer in self._layers()]
        cells = grid(matrix.numpy(force=True), rows=rows_said, columns=self._columns(), signed=True, corner="layer")
        return [strongest, cells]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the strongest effects, and the metric without each unit."""
        base = float(self.base.mean())
        rows = [(self._name(unit), f"{effect:+.3f}", f"{base + effect:.3f}") for unit, effect in self.ranked(top=_N_LISTED)]
        return ("without", "change", self.metric), rows

    def _layers(self) -> list[int]:
        return list(dict.fromkeys(unit.layer for unit in self.units if unit.layer is not None))

    def _columns(self) -> list[str]:
        indices = list(dict.fromkeys(unit.index for unit in self.units if unit.index is not None))
        if self.what != "position" or not self.tokens:
            return [str(index) for index in indices]
        return [f"{index} {token_label(self.tokens[index])}" for index in indices]

    def _names(self) -> list[str]:
        return [self._name(unit) for unit in self.units]

    def _name(self, unit: Unit) -> str:
        if self.what != "position" or not self.tokens or unit.index is None:
            return unit.label
        return f"{unit.label} {token_label(self.tokens[unit.index])}"
