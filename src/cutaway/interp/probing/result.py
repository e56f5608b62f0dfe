"""What probes found: a score for each place, with its nulls, and the probe itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cutaway.interp.probing.activations import Place
from cutaway.interp.probing.causation import Causation
from cutaway.interp.probing.probes import Probe
from cutaway.interp.probing.task import Label
from cutaway.interp.probing.validation import Null, Validation
from cutaway.interp.result import Result
from cutaway.interp.sites import site_of
from cutaway.report import format_fixed, grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["PlacedScore", "ProbeScores"]


@dataclass(frozen=True, eq=False)
class PlacedScore:
    """How well the label is read at one place."""

    place: Place
    validation: Validation
    probe: Probe
    """The probe fitted on all rows, for use; what it reads in them is no test of it."""

    @property
    def label(self) -> str:
        """The place in a word: the layer, or the activation's name where it has none."""
        site = site_of(self.place.name)
        return self.place.name if site.layer is None else f"L{site.layer} {site.part}"


@dataclass(frozen=True, eq=False, repr=False)
class ProbeScores(Result):
    """What a probe reads at each layer and position of texts that it was not fitted on."""

    title: ClassVar[str] = "Probes"
    source: ClassVar[str] = (
        'Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes"; Hewitt and Liang 2019, '
        '"Designing and Interpreting Probes with Control Tasks" (control tasks, selectivity)'
    )

    kind: str
    settings: Mapping[str, Any]
    """The settings of that kind."""
    classes: tuple[Label, ...]
    """None where numbers are predicted."""
    n_rows: int
    n_groups: int
    """How many texts, or groups of them, were dealt into folds."""
    n_types: int | None
    """How many word types the rows stand at."""
    n_folds: int
    n_nulls: int
    n_whole: int
    """How many groups have one label for all their rows: shuffled labels go to whole groups of these."""
    scores: tuple[PlacedScore, ...]
    causes: Causation | None = None
    """What changes when activations are edited along a probe's direction, where that was asked for."""

    @property
    def measure(self) -> str:
        """What is measured: accuracy, or R² of numbers."""
        return "accuracy" if self.classes else "R²"

    @property
    def best(self) -> PlacedScore:
        """The place with the highest score on held-out texts, the first where several have it."""
        return max(self.scores, key=lambda each: each.validation.held_out.value)

    @property
    def best_shuffled(self) -> Null:
        """The null of the best place: in each draw of shuffled labels that of the place which is best in that draw."""
        return Null.of([max(draw) for draw in zip(*(each.validation.shuffled.draws for each in self.scores), strict=True)])

    def at(self, name: str, pos: int | None = None) -> PlacedScore:
        """Return the score of one activation, at a position where there are several; raises KeyError where none was probed."""
        found = [each for each in self.scores if each.place.name == name and pos in (None, each.place.pos)]
        if len(found) != 1:
            raise KeyError(
                f"{len(found)} places are called {name!r} at {pos}; probed were {', '.join(map(str, self.positions))} of it"
            )
        return found[0]

    @property
    def positions(self) -> tuple[int | None, ...]:
        """The positions that were probed."""
        return tuple(dict.fromkeys(each.place.pos for each in self.scores))

    def summary(self) -> str:
        """Return the best place with its score, and what the score is worth."""
        best, n_places = self.best, len(self.scores)
        found = best.validation
        what = f"tells {_listed(self.classes)} apart" if self.classes else "predicts the number"
        where = best.label if len(self.positions) == 1 else f"{best.label} at position {best.place.pos}"
        chance = f"{found.majority:.2f} by the most common class alone, " if self.classes else ""
        of = f" It is the best of {n_places} places, chosen by this same score; {self._best_said()}." if n_places > 1 else ""
        rows = f"{self.n_rows:,} texts" if self.n_rows == self.n_groups else f"{self.n_rows:,} rows in {self.n_groups:,} groups"
        said = (
            f"The {self.kind} probe {what} at {where} with {self.measure} {found.held_out.value:.3f} ± "
            f"{found.held_out.standard_error:.3f} on texts held out ({chance}{format_fixed(found.shuffled.value, 2)} on labels "
            f"shuffled over {self._units}; {rows}, {self.n_folds} folds).{of}{self._control_said(found)}"
        )
        if self.causes is None:
            return said
        same = n_places > 1 and self.causes.chosen is None
        chosen = " That place was chosen by its score on these same texts." if same else ""
        return f"{said} {self.causes.summary()}{chosen}"

    def _best_said(self) -> str:
        null = self.best_shuffled
        n = len(null.draws)
        return (
            f"on shuffled labels the best of them has {format_fixed(null.value, 2)}"
            f"{f' (mean of {n} draws, at most {format_fixed(max(null.draws), 2)})' if n > 1 else ' (1 draw)'}"
        )

    @property
    def _units(self) -> str:
        """What labels were dealt to in the null."""
        if self.n_whole == self.n_groups:
            return "texts" if self.n_rows == self.n_groups else "whole groups"
        return "whole groups where one has one label, and rows" if self.n_whole else "rows"

    def _control_said(self, found: Validation) -> str:
        if found.control is None:
            return ""
        chance = f" ({found.control_majority:.2f} by their most common class alone)" if self.classes else ""
        said = (
            f" On control tasks, which give each token type that is read at one random label, it has {found.control.value:.2f}"
            f"{chance}: selectivity {format_fixed(found.selectivity or 0.0, 2)}."
        )
        n_types, d = self.n_types or 0, self.scores[0].probe.d
        if self.n_rows < 2 * n_types:
            return f"{said} The {n_types} word types hardly come twice in {self.n_rows} rows, so there was little to memorise."
        if n_types <= d:
            return (
                f"{said} With {d} coordinates any labels of {n_types} word types can be learned by heart, so expect no selectivity."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return every place with its scores."""
        return {
            "kind": self.kind,
            "settings": dict(self.settings),
            "measure": self.measure,
            "classes": list(self.classes),
            "n_rows": self.n_rows,
            "n_groups": self.n_groups,
            "n_types": self.n_types,
            "n_folds": self.n_folds,
            "n_nulls": self.n_nulls,
            "n_whole": self.n_whole,
            "best_shuffled": _null_as_dict(self.best_shuffled),
            "places": [_as_dict(each) for each in self.scores],
            "causes": None if self.causes is None else self.causes.to_dict(),
        }

    def matrix(self) -> np.ndarray:
        """Return held-out scores by activation and position."""
        values = [each.validation.held_out.value for each in self._by_name()]
        return np.array(values).reshape(-1, len(self.positions))

    def figures(self) -> list[Figure]:
        """Return the scores by layer with their nulls; for several positions a map."""
        from cutaway.plots import bars, heatmap, lines

        title = f"{self.kind} probe of {', '.join(map(str, self.classes)) or 'numbers'}"
        if len(self.positions) > 1:
            drawn = heatmap(
                self.matrix(),
                rows=self._names(),
                columns=[str(pos) for pos in self.positions],
                title=title,
                row_title=self._shared_part() or "activation",
                column_title="position",
                label=self.measure,
                limit=1.0,
            )
        elif len(self.scores) > 1 and self._layers() is not None:
            drawn = lines(self._curves(), title=title, x_label="layer", y_label=f"{self.measure} on texts held out")
        else:
            values = [each.validation.held_out.value for each in self.scores]
            drawn = bars(values, labels=self._names(), title=title, label=self.measure, signed=False)
        return [drawn] if self.causes is None else [drawn, *self.causes.figures()]

    def _curves(self) -> dict[str, tuple[list[float], list[float]]]:
        layers = [float(layer) for layer in self._layers() or ()]
        found = [each.validation for each in self.scores]
        curves = {
            "held out": [each.held_out.value for each in found],
            "shuffled labels": [each.shuffled.value for each in found],
            "shuffled, best layer": [self.best_shuffled.value] * len(found),
        }
        if self.classes:
            curves["most common class"] = [each.majority for each in found]
        if found[0].control is not None:
            curves["control tasks"] = [each.control.value for each in found if each.control is not None]
        return {name: (layers, values) for name, values in curves.items()}

    def _layers(self) -> list[int] | None:
        """Return the layer of each score; None where activations have none, or one layer has several."""
        layers = [site_of(each.place.name).layer for each in self.scores]
        known = [layer for layer in layers if layer is not None]
        return known if len(known) == len(layers) == len(set(layers)) else None

    def views(self) -> list[RenderableType]:
        """Return a table of the places, or a map of them where there are several positions."""
        if len(self.positions) > 1:
            shown: RenderableType = grid(
                self.matrix(),
                rows=self._names(),
                columns=[str(pos) for pos in self.positions],
                corner=self._shared_part() or "activation",
                limit=1.0,
            )
        else:
            headers, rows = self.table()
            shown = table(*headers, right=headers[1:])
            for row in rows:
                shown.add_row(*row)
        return [shown] if self.causes is None else [shown, *self.causes.views()]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the scores of every place."""
        has_control = self.scores[0].validation.control is not None
        headers = [self._shared_part() or "activation", self.measure, "± se", "fitted", "shuffled", "± sd"]
        headers += ["control", "selectivity"] if has_control else []
        if len(self.positions) > 1:
            headers.insert(1, "pos")
        return headers, [self._row(each, has_control) for each in self._by_name()]

    def _row(self, each: PlacedScore, has_control: bool) -> list[str]:
        found = each.validation
        values = [found.held_out.value, found.held_out.standard_error, found.fitted, found.shuffled.value, found.shuffled.deviation]
        if has_control and found.control is not None and found.selectivity is not None:
            values += [found.control.value, found.selectivity]
        where = [str(each.place.pos)] if len(self.positions) > 1 else []
        return [self._name(each), *where, *(format_fixed(value, 3) for value in values)]

    def _by_name(self) -> list[PlacedScore]:
        names = list(dict.fromkeys(each.place.name for each in self.scores))
        return sorted(self.scores, key=lambda each: (names.index(each.place.name), self.positions.index(each.place.pos)))

    def _names(self) -> list[str]:
        return list(dict.fromkeys(self._name(each) for each in self.scores))

    def _name(self, each: PlacedScore) -> str:
        """Return the layer alone where the same part of every layer was probed."""
        return each.label.partition(" ")[0] if self._shared_part() else each.label

    def _shared_part(self) -> str | None:
        sites = [site_of(each.place.name) for each in self.scores]
        parts = {site.part for site in sites if site.layer is not None}
        return next(iter(parts)) if len(parts) == 1 and all(site.layer is not None for site in sites) else None


def _as_dict(each: PlacedScore) -> dict[str, Any]:
    found = each.validation
    nulls = {"shuffled": found.shuffled, "control": found.control}
    return {
        "name": each.place.name,
        "pos": each.place.pos,
        "held_out": found.held_out.value,
        "standard_error": found.held_out.standard_error,
        "fitted": found.fitted,
        "majority": found.majority,
        **{name: None if null is None else _null_as_dict(null) for name, null in nulls.items()},
        "control_majority": found.control_majority,
        "selectivity": found.selectivity,
    }


def _null_as_dict(null: Null) -> dict[str, Any]:
    return {"mean": null.value, "deviation": _known(null.deviation), "draws": list(null.draws)}


def _listed(classes: Sequence[Label]) -> str:
    names = list(map(str, classes))
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _known(value: float) -> float | None:
    """Return a number, None for the deviation of a single draw, which has none."""
    return value if value == value else None
