"""Vectors of the residual stream under their names, and a run's record as decompositions read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.positions import at_places, of_all_rows
from cutaway.model import Transformer

__all__ = ["Stack", "StackKind", "Record", "kept_positions", "at_positions"]

StackKind = Literal["streams", "parts", "some parts"]
"""Whether each vector is the stream at some place, or all of them add up to it, or they are some of those that do."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Vectors of the residual stream, each under its name: `stack["L3 attn"]`."""

    values: Float[Tensor, "component batch pos d_model"]
    labels: tuple[str, ...]
    kind: StackKind = "parts"
    positions: tuple[int, ...] | None = None
    """Which positions of the run they are of, negative ones from each row's own end; None for all that were recorded."""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.values):
            raise ValueError(f"there are {len(self.values)} components and {len(self.labels)} labels: give one for each")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, label: str) -> Float[Tensor, "batch pos d_model"]:
        """Return one component; raises KeyError for a label that is not there."""
        if label not in self.labels:
            raise KeyError(f"there is no component {label!r}; there are {', '.join(self.labels[:8])}{', ...' * (len(self) > 8)}")
        return self.values[self.labels.index(label)]

    @property
    def total(self) -> Float[Tensor, "batch pos d_model"]:
        """The sum of all components."""
        return self.values.sum(dim=0)


@runtime_checkable
class Record(Protocol):
    """What decompositions need of an ActivationCache."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    pos: tuple[int, ...] | None
    lengths: tuple[int, ...] | None
    edited: bool

    def __getitem__(self, name: str | tuple[str, int]) -> Float[Tensor, "..."]:
        """Return an activation."""

    def __contains__(self, name: object) -> bool:
        """Return whether an activation was recorded."""

    def position_axis(self, pos: int, *, length: int | None = None) -> int:
        """Return where along the kept positions one of the run's is, for a row of so many tokens."""

    def check_weights(self) -> None:
        """Raise ValueError where the weights changed since the run."""


def kept_positions(record: Record, pos: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return positions of the run, all that were recorded for None; raises ValueError for one that is not there.

    They count from 0, but for negative ones of rows that differ in length, which count from each row's own end.
    """
    n_pos = record.tokens.shape[1]
    if pos is None:
        return tuple(range(n_pos)) if record.pos is None else record.pos
    return of_all_rows(pos, n_pos, record.lengths)


def at_positions(record: Record, x: Float[Tensor, "..."], positions: Sequence[int], *, axis: int = 1) -> Float[Tensor, "..."]:
    """Return an activation at some positions of the run; `axis` is that of its positions."""
    places = [[record.position_axis(each, length=length) for each in positions] for length in record.lengths or (None,)]
    if all(each == list(range(x.shape[axis])) for each in places):
        return x
    return at_places(x, places, axis - x.ndim)
