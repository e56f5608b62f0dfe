"""What a store holds, and how long its rows are by position, from a few windows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from cutaway.interp.result import Result
from cutaway.interp.store.reading import ActivationStore, StoredActivation
from cutaway.report.numbers import format_bytes, format_fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["StoreContents", "describe_store"]

_N_WINDOWS = 64
"""So many windows, spread over the store, say how long rows are."""


@dataclass(frozen=True, repr=False)
class StoreContents(Result):
    """A store in words and numbers; `lengths` are mean Euclidean norms at each position, of a few windows."""

    title: ClassVar[str] = "Activation store"
    source: ClassVar[str] = "lengths are Euclidean norms of rows, mean over windows spread over the store"

    folder: str
    data: str
    dtype: str
    n_tokens: int
    n_shards: int
    n_ctx: int
    gib: float
    n_windows: int
    """Windows whose rows were measured."""
    first_position: int
    shapes: Mapping[str, tuple[int, ...]]
    lengths: Mapping[str, tuple[float, ...]]

    def summary(self) -> str:
        """Return what the store holds, and how much longer the first position's rows are."""
        shards = "1 shard" if self.n_shards == 1 else f"{self.n_shards:,} shards"
        held = next(iter(self.shapes)) if len(self.shapes) == 1 else f"{len(self.shapes)} activations"
        size = f"{format_bytes(self.gib * 2**30)} in {self.dtype}, {shards}"
        text = f"{self.folder} holds {self.n_tokens:,} rows of {held}, from {self.data}: {size}."
        ratios = {name: each[0] / _median(each[1:]) for name, each in self.lengths.items() if len(each) > 1 and _median(each[1:])}
        name, ratio = max(ratios.items(), key=lambda pair: pair[1], default=("", 0.0))
        if self.first_position or ratio < 3:
            return text
        return f"{text} At the first position {name} is {ratio:.0f} times as long as at the others; skip_first leaves it out."

    def to_dict(self) -> dict[str, Any]:
        """Return everything, lengths position by position."""
        return {**vars(self), "shapes": dict(self.shapes), "lengths": dict(self.lengths)}

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return each activation with its shape, and how long its rows are."""
        headers = ("activation", "a row", "length at the first position", "at the others")
        if self.first_position:
            headers = ("activation", "a row", "length at position 1", "at the others")
        rows = []
        for name, shape in self.shapes.items():
            first, *others = self.lengths[name]
            rows.append((name, " x ".join(map(str, shape)), format_fixed(first, 2), format_fixed(_median(others), 2)))
        return headers, rows

    def views(self) -> Sequence[RenderableType]:
        """Return a table of the activations."""
        from cutaway.report import filled_table

        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers[1:])]

    def figures(self) -> Sequence[Figure]:
        """Return how long rows are, position by position after the first, which would hide the others."""
        from cutaway.plots import lines

        start = self.first_position
        series = {name: (range(start + 1, start + len(each)), each[1:]) for name, each in self.lengths.items() if len(each) > 1}
        if not series:
            return ()
        title = f"How long rows are after position {start}"
        return [lines(series, title=title, x_label="position in the window", y_label="mean Euclidean norm")]


def describe_store(store: ActivationStore) -> StoreContents:
    """Return what a store holds, with the lengths of its rows by position, read from 64 windows spread over it."""
    plan = store.plan
    per_window = plan.n_ctx - plan.skip_first
    n_whole = max(1, store.n_tokens // per_window)
    windows = torch.linspace(0, n_whole - 1, min(n_whole, _N_WINDOWS)).long().unique().tolist()
    return StoreContents(
        folder=str(store.folder),
        data=store.manifest["data"]["source"],
        dtype=str(store.dtype).removeprefix("torch."),
        n_tokens=store.n_tokens,
        n_shards=plan.n_shards,
        n_ctx=plan.n_ctx,
        gib=store.gib,
        n_windows=len(windows),
        first_position=int(plan.skip_first),
        shapes=plan.shapes,
        lengths={name: _lengths(store[name].flattened(), windows, per_window) for name in store.names},
    )


def _lengths(x: StoredActivation, windows: Sequence[int], per_window: int) -> tuple[float, ...]:
    """Return the mean norm of rows at each position of these windows."""
    norms = [x[window * per_window : (window + 1) * per_window].double().norm(dim=-1) for window in windows]
    return tuple(torch.stack(norms).mean(0).tolist())


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median()) if values else float("nan")
