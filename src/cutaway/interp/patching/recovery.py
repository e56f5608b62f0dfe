"""What patching found: how much of the answer each cell brings with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.alignment import Alignment
from cutaway.interp.result import Result
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tensors import finite_or_none
from cutaway.report import format_number, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from cutaway.interp.patching.grid import Cell

__all__ = ["BANDS_IN_WORDS", "LayerRecovery", "PatchResult", "band"]

_BANDS = ((0.7, "Critical"), (0.4, "Important"), (0.2, "Moderate"))
BANDS_IN_WORDS = f"{', '.join(f'{name} is above {100 * least:.0f} %' for least, name in _BANDS)}, Minimal the rest"
"""What the words for a recovery mean, as it is said where they are shown."""

_N_SHOWN = 10
_N_STRETCHES = 4
_MANY_ROWS = 20


def band(recovery: float) -> str:
    """Return the word for a recovery: Critical above 70 %, Important above 40 %, Moderate above 20 %, else Minimal."""
    return next((name for least, name in _BANDS if recovery > least), "Minimal")


@dataclass(frozen=True)
class LayerRecovery:
    """A layer by its best cell."""

    layer: int
    where: str
    recovery: float
    score: float
    standard_error: float
    """Of the recovery, over prompts; NaN for one."""

    @property
    def band(self) -> str:
        """The word for it."""
        return band(self.recovery)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PatchResult(Result):
    """The metric of every patched run beside those of the two runs, and what share of the way each patch went."""

    title: ClassVar[str] = "Activation patching"
    source: ClassVar[str] = (
        "activation patching (Meng et al. 2022; Wang et al. 2022); the metrics of Zhang and Nanda 2023; denoising and noising of "
        "Heimersheim and Nanda 2024"
    )

    site: str
    by: Cell
    direction: str
    metric: str
    measured: str
    """The metric in words."""
    correct: tuple[str, ...]
    wrong: tuple[str, ...] | None
    alignments: tuple[Alignment, ...]
    positions: tuple[int, ...]
    """The positions of the run patched into that the grid has, where it has an axis for them."""
    scores: Float[Tensor, "layer *cell batch"]
    """The metric of each row of each patched run."""
    base: Float[Tensor, " batch"]
    """The metric of each row of the run that is patched into."""
    other: Float[Tensor, " batch"]
    """The metric of each row of the run that is patched from."""
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> Float[Tensor, "layer *cell"]:
        """The metric of each patched run, averaged over rows."""
        return self.scores.mean(-1)

    @property
    def recovery(self) -> Float[Tensor, "layer *cell"]:
        """How far each patch takes the metric: 0 is the run patched into, 1 the other; below and above happen and stay.

        With noising that is the share of the way to the corrupted run, and nothing recovers.
        """
        return (self.values - self.base.mean()) / (self.other.mean() - self.base.mean())

    @property
    def standard_errors(self) -> Float[Tensor, "layer *cell"]:
        """How far the recovery may be off as a mean over prompts, the runs' metric taken as it is; NaN for one prompt."""
        return standard_error(self.scores - self.base) / (self.other.mean() - self.base.mean()).abs()

    @property
    def labels(self) -> list[str]:
        """The name of each cell of a layer, in the order of the flattened axes."""
        heads = [f"head {head}" for head in range(self.scores.shape[1])] if "head" in self.by else [""]
        places = self._places() if self.positions else [""]
        return [", ".join(filter(None, (head, place))) or "all" for head in heads for place in places]

    def ranked(self, *, apart: Sequence[int] = ()) -> list[LayerRecovery]:
        """Return the layers by their best cell, the best first, of all positions but those that are left `apart`."""
        recovery, values = self.recovery.flatten(1) if self.recovery.ndim > 1 else self.recovery[:, None], self.values
        values, errors, labels = values.reshape(recovery.shape), self.standard_errors.reshape(recovery.shape), self.labels
        is_apart = torch.tensor([pos in apart for pos in self.positions] or [False]).repeat(
            recovery.shape[1] // len(self.positions or "1")
        )
        best = recovery.masked_fill(is_apart.to(recovery.device), -torch.inf).argmax(1).tolist()
        layers = [
            LayerRecovery(layer, labels[cell], *(float(each[layer, cell]) for each in (recovery, values, errors)))
            for layer, cell in enumerate(best)
        ]
        return sorted(layers, key=lambda each: -each.recovery)

    @property
    def read(self) -> tuple[int, ...]:
        """The position that the answer is read from, where the stream there is a cell: at the end that brings all by definition."""
        alignment = self.alignments[0]
        last = len(alignment.corrupted if self.direction == "denoising" else alignment.clean) - 1
        is_stream = self.site.startswith("resid") and self.by == "position"
        return (last,) if is_stream and last in self.positions and len(self.positions) > 1 else ()

    def summary(self) -> str:
        """Return what was put where, the metric of both runs, and which cell brings most."""
        names = ("clean", "corrupted") if self.direction == "denoising" else ("corrupted", "clean")
        what = {
            "position": "one layer and position at a time",
            "head": "one head at a time",
            "kv-head": "one head of keys and values at a time",
            "head-position": "one head and position at a time",
            "layer": "one layer at a time",
        }[self.by]
        best = self.ranked()[0]
        bands = Counter(each.band for each in self.ranked())
        counted = ", ".join(f"{bands[name]} {name}" for name in ("Critical", "Important", "Moderate", "Minimal") if bands[name])
        rows = f" (mean of {len(self.base)} prompts)" if len(self.base) > 1 else ""
        sentences = [
            f"{self.direction.capitalize()}: {self.site} of the {names[0]} run goes into the {names[1]} run, {what}.",
            f"The {self.measured}{rows} is {format_number(self.base.mean())} in the {names[1]} run (0 %) and "
            f"{format_number(self.other.mean())} in the {names[0]} run (100 %).",
            f"Most comes with layer {best.layer}, {best.where}: {100 * best.recovery:.1f} %{self._way}.",
            *self._elsewhere(),
            *self._moves(),
            f"Layers by their best cell: {counted} ({BANDS_IN_WORDS}).",
            *(f"{note}." for note in self.notes),
            *dict.fromkeys(sentence for each in self.alignments if (sentence := each.sentence())),
        ]
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, alignment, the metric and the recovery of every cell, and the ranked layers."""
        return {
            "site": self.site,
            "by": self.by,
            "direction": self.direction,
            "metric": self.metric,
            "correct": list(self.correct),
            "wrong": None if self.wrong is None else list(self.wrong),
            "notes": list(self.notes),
            "alignments": [each.to_dict() for each in self.alignments],
            "patched_into": self.base.tolist(),
            "patched_from": self.other.tolist(),
            "axes": ["layer", *(["head"] if "head" in self.by else []), *(["position"] if self.positions else [])],
            "positions": list(self.positions),
            "cells": self.labels,
            "values": self.values.tolist(),
            "recovery": self.recovery.tolist(),
            "standard_errors": finite_or_none(self.standard_errors.tolist()),
            "scores": self.scores.tolist(),
            "layers": [_described(each) for each in self.ranked()],
            "read": list(self.read),
            "layers_apart_from_read": [_described(each) for each in self.ranked(apart=self.read)] if self.read else None,
        }

    def figures(self) -> list[Figure]:
        """Return the grid as a heat map, and the layers by their best cell."""
        from cutaway.plots import bars, heatmap

        layers = sorted(self.ranked(), key=lambda each: each.layer)
        best = bars(
            [100 * each.recovery for each in layers],
            labels=[str(each.layer) if self.by == "layer" else f"{each.layer}: {each.where}" for each in layers],
            title="The best cell of each layer" if self.by != "layer" else f"{self.site} by layer",
            label=f"{self._share}, %",
        )
        if self.by == "layer":
            return [best]
        rows, columns, percent = self._matrix()
        grid = heatmap(
            percent,
            rows=rows,
            columns=columns,
            title=f"{self.direction.capitalize()} {self.site} by {self._axes_are}",
            row_title="layer.head" if self.by == "head-position" else "layer",
            column_title=self._columns_are,
            label=f"{self._share}, %",
            signed=True,
        )
        return [grid, best]

    def views(self) -> list[RenderableType]:
        """Return both prompts side by side, the grid in percent, and the best layers."""
        from rich.console import Group
        from rich.text import Text

        from cutaway.report.grid import grid
        from cutaway.report.terminal import table

        prompts = self.alignments[0].view(
            title="Prompts" if len(self.alignments) == 1 else f"The first of {len(self.alignments)} prompts"
        )
        header, rows = self.table()
        ranking = table(
            *header,
            right=[name for name in header if name not in ("best cell", "band") and not name.startswith("best but")],
            title=f"The best {min(_N_SHOWN, len(rows))} layers",
        )
        for row in rows[:_N_SHOWN]:
            ranking.add_row(*row)
        row_labels, columns, percent = self._matrix()
        corner = "layer.head" if self.by == "head-position" else "layer"
        cells = grid(percent, rows=row_labels, columns=columns, signed=True, digits=0, corner=corner)
        heading = f"{self._share.capitalize()} by {self.site} in %, by {self._axes_are}"
        return [prompts, Group(Text(heading, style="bold"), cells), ranking]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the layers by their best cell."""
        rows = [
            [str(each.layer), each.where, f"{100 * each.recovery:.1f}", format_number(each.score), each.band]
            for each in self.ranked()
        ]
        header = ["layer", "best cell", "recovery %" if self.direction == "denoising" else "of the way %", "metric", "band"]
        header, rows = with_errors(header, rows, [100 * each.standard_error for each in self.ranked()], after=2, form=".1f")
        if not self.read:
            return header, rows
        elsewhere = {each.layer: each for each in self.ranked(apart=self.read)}
        cells = [elsewhere[int(row[0])] for row in rows]
        apart = [[each.where, f"{100 * each.recovery:.1f}"] for each in cells]
        return [*header, f"best but {self.read[0]}", "%"], [[*row, *more] for row, more in zip(rows, apart, strict=True)]

    def _elsewhere(self) -> list[str]:
        """Return the sentence of what most comes with apart from the position that is read."""
        if not self.read:
            return []
        best = self.ranked(apart=self.read)[0]
        return [
            f"Apart from position {self.read[0]}, which the answer is read from and which holds all of it at the end, most comes with "
            f"layer {best.layer}, {best.where}: {100 * best.recovery:.1f} %."
        ]

    def _moves(self) -> list[str]:
        """Return the sentence of where the best position of the stream is as layers go on."""
        if self.by != "position" or not self.site.startswith("resid"):
            return []
        layers = sorted(self.ranked(), key=lambda each: each.layer)
        stretches = [(where, [each.layer for each in run]) for where, run in groupby(layers, key=lambda each: each.where)]
        if len(stretches) == 1:
            return [f"The best position is {layers[0].where} in every layer."]
        longest = sorted(stretches, key=lambda each: -len(each[1]))[:_N_STRETCHES]
        said = [
            f"{where} ({'layer' if len(run) == 1 else 'layers'} {run[0]}{f' to {run[-1]}' if len(run) > 1 else ''})"
            for where, run in sorted(longest, key=lambda each: each[1])
        ]
        n_more = len(stretches) - len(longest)
        more = f", and {n_more} shorter {'stretch' if n_more == 1 else 'stretches'} besides" if n_more else ""
        return [f"The best position moves: {', then '.join(said)}{more}."]

    @property
    def _share(self) -> str:
        """What 100 % is of."""
        return "recovery" if self.direction == "denoising" else "share of the way to the corrupted run"

    @property
    def _way(self) -> str:
        return "" if self.direction == "denoising" else " of the way to the corrupted run"

    @property
    def _columns_are(self) -> str:
        """What the grid has along its columns."""
        return (
            "position" if self.positions else {"kv-head": "head of keys and values", "layer": "all positions"}.get(self.by, "head")
        )

    @property
    def _axes_are(self) -> str:
        """What the grid has along both."""
        if self.by == "head-position":
            n_heads = self.recovery[..., 0].numel()
            return (
                f"head and position, the strongest {_MANY_ROWS} of {n_heads} heads" if n_heads > _MANY_ROWS else "head and position"
            )
        return f"layer and {self._columns_are}"

    def _places(self) -> list[str]:
        """Return positions with their tokens, where all rows have the same."""
        side = "corrupted" if self.direction == "denoising" else "clean"
        shown = []
        for pos in self.positions:
            pairs = {self._pair_text(each, pos, side) for each in self.alignments}
            shown.append(f"{pos} {pairs.pop()}" if len(pairs) == 1 else str(pos))
        return shown

    def _pair_text(self, alignment: Alignment, pos: int, side: str) -> str:
        """Return the token of the clean prompt there."""
        if side == "clean":
            return token_label(alignment.clean[pos])
        return next(token_label(alignment.clean[clean]) for clean, corrupted in alignment.pairs if corrupted == pos)

    def _matrix(self) -> tuple[list[str], list[str], Any]:
        """Return labels of rows and columns, and the recovery in percent; of heads by position, the rows with the strongest cells."""
        percent = (100 * self.recovery).numpy(force=True)
        if self.by == "layer":
            return [str(layer) for layer in range(len(percent))], ["all positions"], percent[:, None]
        if self.by != "head-position":
            columns = self._places() if self.positions else [str(head) for head in range(percent.shape[1])]
            return [str(layer) for layer in range(len(percent))], columns, percent
        n_layers, n_heads, _ = percent.shape
        names = [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]
        flat = percent.reshape(n_layers * n_heads, -1)
        strongest = sorted(sorted(range(len(flat)), key=lambda row: -abs(flat[row]).max())[:_MANY_ROWS])
        return [names[row] for row in strongest], self._places(), flat[strongest]


def _described(each: LayerRecovery) -> dict[str, Any]:
    spread = finite_or_none(each.standard_error)
    numbers = {"recovery": each.recovery, "standard_error": spread, "value": each.score}
    return {"layer": each.layer, "cell": each.where, **numbers, "band": each.band}
