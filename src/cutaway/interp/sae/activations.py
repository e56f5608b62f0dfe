"""Where rows to train on come from: a tensor in memory, a model that runs as they are needed, known features.

Whatever has `batches` will do, a stored activation too. A row of a transcoder is what it reads and after it what it predicts; a row of
a crosscoder is the activations of its models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.hooks import canonical_name
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import check_names, row_shape, site_of
from cutaway.interp.store.shuffling import shuffled_batches
from cutaway.interp.training_data import TrainingData
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator
from cutaway.views import without_dropout

__all__ = [
    "ActivationSource",
    "NumberedRows",
    "TensorActivations",
    "ModelActivations",
    "SideBySide",
    "SyntheticFeatures",
    "as_vectors",
    "width_of",
    "layer_of",
]

_N_TOKENS = 2048  # run at once


@runtime_checkable
class ActivationSource(Protocol):
    """Rows of activations in an order that follows from a seed."""

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield every row once an epoch, `batch_size` at a time."""
        ...


@dataclass(frozen=True, eq=False)
class TensorActivations:
    """Rows that lie in memory."""

    rows: Float[Tensor, "row d"]

    @classmethod
    def of(cls, source: ModelActivations, *, progress: Callable[[int, int], None] | None = None) -> TensorActivations:
        """Return all rows of a model's activations, computed once."""
        n_windows, n_pos = source.tokens.shape
        rows = torch.empty(0)
        n_done = 0
        for part in source.in_order(progress):
            rows = rows if n_done else part.new_empty(n_windows * (n_pos - source.first), source.d)
            rows[n_done : n_done + len(part)] = part
            n_done += len(part)
        return cls(rows)

    @property
    def d(self) -> int:
        """Coordinates of a row."""
        return self.rows.shape[1]

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield every row once an epoch, in an order drawn anew for each; the last batch of an epoch may be smaller."""
        generator = seeded_generator(seed)
        for _ in range(n_epochs):
            order = torch.randperm(len(self.rows), generator=generator).to(self.rows.device)
            for places in order.split(batch_size):
                yield self.rows[places]


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Rows of several sources beside each other, row for row as they are numbered: a transcoder's input and its target.

    Stores and tensors are asked for the same numbers, drawn in one order, so that neither their dtypes nor their widths matter;
    models for windows of the same tokens. Raises ValueError for sources of different rows, and for any others, which come in orders of
    their own.
    """

    sources: Sequence[ActivationSource]

    def __post_init__(self) -> None:
        if self._are_runs():
            return
        numbered = [_numbered(each) for each in self.sources]
        if others := [type(each).__name__ for each, rows in zip(self.sources, numbered, strict=True) if rows is None]:
            raise ValueError(
                f"rows of {' and '.join(dict.fromkeys(others))} come in an order of their own, not in that of what is beside them: "
                "give one ModelActivations all names or models, or hold each as a tensor (TensorActivations.of)"
            )
        data = [each for each in (getattr(source, "training_data", None) for source in self.sources) if each is not None]
        if len({len(rows) for rows in numbered if rows is not None}) > 1 or any(each != data[0] for each in data):
            raise ValueError("the activations side by side do not have the same rows: store them from one corpus together")

    @property
    def training_data(self) -> TrainingData | None:
        """What is learned from, where the first source knows it."""
        data: TrainingData | None = getattr(self.sources[0], "training_data", None)
        return data

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield every row once an epoch, joined; the last batch of an epoch may be smaller."""
        if not self._are_runs():
            joined = _Joined([rows for rows in map(_numbered, self.sources) if rows is not None])
            yield from shuffled_batches(joined, batch_size, seed=seed, n_epochs=n_epochs)
            return
        for parts in zip(*(each.batches(batch_size, seed=seed, n_epochs=n_epochs) for each in self.sources), strict=True):
            yield torch.cat([part.flatten(1) for part in parts], dim=-1)

    def _are_runs(self) -> bool:
        """Whether all are runs of the same windows, which come in one order."""
        first = self.sources[0]
        return isinstance(first, ModelActivations) and all(
            isinstance(each, ModelActivations)
            and (each.first, each.n_buffered) == (first.first, first.n_buffered)
            and torch.equal(each.tokens, first.tokens)
            for each in self.sources
        )


@runtime_checkable
class NumberedRows(Protocol):
    """Rows that are there to be asked for by number, as a tensor's and a stored activation's are."""

    @property
    def dtype(self) -> torch.dtype:
        """What they are in."""
        ...

    @property
    def shape(self) -> torch.Size:
        """The rows, and the shape of one."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Float[Tensor, "row ..."]: ...


def _numbered(source: ActivationSource) -> NumberedRows | None:
    """Return the rows of a source that can be asked for by number; None for another."""
    rows = source.rows if isinstance(source, TensorActivations) else source
    return rows if isinstance(rows, NumberedRows) else None


class _Joined:
    """Numbered rows of several sources beside each other, in the widest of their dtypes."""

    def __init__(self, parts: Sequence[NumberedRows]) -> None:
        self._parts, self._widths = parts, [math.prod(part.shape[1:]) for part in parts]
        self.dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts))
        self.shape = (sum(self._widths),)
        self.row_bytes = self.shape[0] * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._parts[0])

    def span(self, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        """Return the rows from one up to another, in memory that is given or new."""
        x = torch.empty(stop - start, *self.shape, dtype=self.dtype) if into is None else into
        for part, columns in zip(self._parts, x.split(self._widths, dim=1), strict=True):
            columns.copy_(part[start:stop].flatten(1))
        return x


@dataclass(frozen=True, eq=False)
class ModelActivations:
    """Activations of windows of tokens, computed as they are needed: the windows are shuffled, and a buffer of rows again.

    Several names, or several models, stand side by side in a row. The first `first` positions of a window are left out: the stream of a
    trained model is often many times longer at the first than anywhere else.
    """

    models: Transformer | LanguageModel | Sequence[Transformer]
    tokens: Int[Tensor, "window pos"]
    names: str | Sequence[str]
    first: int = 1
    n_buffered: int = 2**15
    """Rows that are mixed."""
    _models: tuple[Transformer, ...] = field(init=False, repr=False)
    _names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = [self.models] if isinstance(self.models, Transformer | LanguageModel) else list(self.models)
        models = tuple(each.model if isinstance(each, LanguageModel) else each for each in given)
        names = [self.names] if isinstance(self.names, str) else list(self.names)
        for model in models:
            check_names(model.config, names)
        if not 0 <= self.first < self.tokens.shape[1]:
            raise ValueError(f"first is {self.first} and the windows have {self.tokens.shape[1]} tokens: leave some of them")
        object.__setattr__(self, "_models", tuple(map(without_dropout, models)))
        object.__setattr__(self, "_names", tuple(map(canonical_name, names)))

    @property
    def d(self) -> int:
        """Coordinates of a row."""
        return sum(width_of(model, name) for model in self._models for name in self._names)

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield every row once an epoch; half of the buffer stays in it to be mixed with what comes."""
        generator = seeded_generator(seed)
        for _ in range(n_epochs):
            order = torch.randperm(len(self.tokens), generator=generator)
            waiting: list[Tensor] = []
            n_waiting = 0
            for windows in order.split(max(1, _N_TOKENS // self.tokens.shape[1])):
                waiting.append(self.rows(self.tokens[windows.to(self.tokens.device)]))
                n_waiting += len(waiting[-1])
                if n_waiting >= max(self.n_buffered, 2 * batch_size):
                    mixed = _shuffled(waiting, generator)
                    n_out = n_waiting // 2 // batch_size * batch_size
                    yield from mixed[:n_out].split(batch_size)
                    waiting, n_waiting = [mixed[n_out:]], n_waiting - n_out
            yield from _shuffled(waiting, generator).split(batch_size)

    def in_order(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Float[Tensor, "_ d"]]:
        """Yield all rows in the order of the tokens; `progress` is told how many windows are done of how many."""
        n_done = 0
        for part in self.tokens.split(max(1, _N_TOKENS // self.tokens.shape[1])):
            yield self.rows(part)
            n_done += len(part)
            if progress is not None:
                progress(n_done, len(self.tokens))

    def rows(self, tokens: Int[Tensor, "window pos"]) -> Float[Tensor, "row d"]:
        """Return the rows of some windows in their order."""
        parts = []
        for model in self._models:
            last = max(layer_of(model, name) for name in self._names)
            _, cache = run_with_cache(model, tokens, self._names, stop_after_layer=last)
            parts += [as_vectors(cache[name], name)[:, self.first :].flatten(0, 1) for name in self._names]
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True, eq=False)
class SyntheticFeatures:
    """Rows made of features that are known: each is there with a probability, at a size drawn evenly between two bounds.

    Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders"; here the directions are drawn evenly from the
    sphere and features come and go independently.
    """

    directions: Float[Tensor, "feature d"]
    probability: float
    n_rows: int = 2**20
    """Rows of an epoch."""
    sizes: tuple[float, float] = (0.5, 1.5)

    @classmethod
    def random(cls, n_features: int, d: int, *, probability: float, seed: int, n_rows: int = 2**20) -> SyntheticFeatures:
        """Return features in directions drawn at random."""
        directions = torch.randn(n_features, d, generator=seeded_generator(seed))
        return cls(directions / directions.norm(dim=1, keepdim=True), probability, n_rows)

    @property
    def d(self) -> int:
        """Coordinates of a row."""
        return self.directions.shape[1]

    def batches(self, batch_size: int, *, seed: int, n_epochs: int = 1) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield rows drawn anew, as many as `n_rows` an epoch."""
        generator = seeded_generator(seed)
        for _ in range(n_epochs * -(-self.n_rows // batch_size)):
            yield self.draw(batch_size, generator)

    def draw(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "row d"]:
        """Return so many rows."""
        shape, (low, high) = (n_rows, len(self.directions)), self.sizes
        is_there = torch.rand(shape, generator=generator) < self.probability
        return (is_there * (low + (high - low) * torch.rand(shape, generator=generator))).to(self.directions) @ self.directions


def as_vectors(x: Float[Tensor, "..."], name: str) -> Float[Tensor, "... d"]:
    """Return an activation with one axis of coordinates: all heads of a position side by side."""
    return x.flatten(-2) if _has_heads(name) else x


def width_of(model: Transformer, name: str) -> int:
    """Return how many coordinates an activation has at a position; raises ValueError for what has no such vector."""
    check_names(model.config, [name])
    if site_of(name).is_attention:
        raise ValueError(f"{name!r} holds a row of keys for every query, and a dictionary is of vectors: name another activation")
    _, *sizes = row_shape(model.config, name, 1)
    return sizes[0] * sizes[1] if _has_heads(name) else sizes[0]


def layer_of(model: Transformer, name: str) -> int:
    """Return the layer after which an activation is known, the last for those at the end."""
    layer = site_of(name).layer
    return (0 if name in ("embed", "pos_embed") else model.config.n_layers - 1) if layer is None else layer


def _has_heads(name: str) -> bool:
    return len(site_of(canonical_name(name)).axes) == 4


def _shuffled(parts: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    rows = torch.cat(list(parts))
    return rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
