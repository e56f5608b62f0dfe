"""How large a store would be and how long it would take, from a short run and before anything is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from cutaway.interp.result import Result
from cutaway.interp.rows import model_of
from cutaway.interp.store.forward import allocated, read_windows, record_batch
from cutaway.interp.store.plan import StorePlan, plan_store
from cutaway.interp.store.stream import Data, TokenStream, open_stream
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report.numbers import format_bytes, format_duration
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["StoreEstimate", "estimate"]

_ENOUGH_S, _MOST_BATCHES = 1.0, 8  # of a measurement


@dataclass(frozen=True, repr=False)
class StoreEstimate(Result):
    """What a store would take: GiB on the disk, seconds of this machine, tokens."""

    title: ClassVar[str] = "Activation store, estimated"
    source: ClassVar[str] = "sizes follow from shapes; the time is that of a short run of this model on this machine"

    data: str
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of one row of each activation."""
    dtype: str
    n_tokens: int
    """Tokens that are read."""
    n_rows: int
    """Tokens of which activations are stored."""
    n_shards: int
    gib: float
    time_s: float
    tokens_per_s: float
    n_measured: int
    """Tokens of the short run."""

    def summary(self) -> str:
        """Return tokens, size and time in a sentence or two."""
        n = len(self.shapes)
        what = next(iter(self.shapes)) if n == 1 else f"{n} activations"
        shards = "1 shard" if self.n_shards == 1 else f"{self.n_shards:,} shards"
        size = f"{format_bytes(self.gib * 2**30)} in {self.dtype}, {shards}"
        rate = f"At {self.tokens_per_s:,.0f} tokens/s, measured on {self.n_measured:,}, that takes {format_duration(self.time_s)}."
        return f"{self.n_rows:,} rows of {what}, from {self.n_tokens:,} tokens of {self.data}: {size}. {rate}"

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, and the shape of one row of each activation."""
        return {**vars(self), "shapes": {name: list(shape) for name, shape in self.shapes.items()}}

    def figures(self) -> Sequence[Figure]:
        """Return none: a size and a time need no figure."""
        return ()

    def views(self) -> Sequence[RenderableType]:
        """Return a table of the activations."""
        from cutaway.report import filled_table

        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers[1:])]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return each activation with the shape of a row."""
        return ("activation", "a row"), [(name, " x ".join(map(str, shape))) for name, shape in self.shapes.items()]


def estimate(
    lm: LanguageModel | Transformer,
    data: Data,
    names: str | Sequence[str],
    *,
    dtype: torch.dtype | None = None,
    ctx: int | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    skip_first: bool = False,
    shard_gib: float = 0.25,
) -> StoreEstimate:
    """Return the size in GiB and the time in seconds that `collect` would take, from a run of a second or two; nothing is stored.

    Raises ValueError as `collect` does for what cannot be stored.
    """
    model, stream = model_of(lm), open_stream(lm, data, max_tokens=max_tokens)
    layout: dict[str, Any] = {"ctx": ctx, "batch_size": batch_size, "skip_first": skip_first, "shard_gib": shard_gib}
    plan = plan_store(model, stream, names, dtype=dtype, **layout)
    stream.check(model.config.d_vocab)
    n_measured, time_s = _measured(model, stream, plan)
    return StoreEstimate(
        data=stream.source,
        shapes=plan.shapes,
        dtype=str(plan.dtype).removeprefix("torch."),
        n_tokens=plan.n_tokens,
        n_rows=plan.n_rows,
        n_shards=plan.n_shards,
        gib=plan.n_bytes / 2**30,
        time_s=plan.n_tokens * time_s / n_measured,
        tokens_per_s=n_measured / time_s,
        n_measured=n_measured,
    )


def _measured(model: Transformer, stream: TokenStream, plan: StorePlan) -> tuple[int, float]:
    """Return how many tokens ran in how many seconds, after one batch that warms up."""
    device = model.embed.W_E.device
    batches = list(islice(plan.batches(0), 1 + _MOST_BATCHES))
    rows = allocated(plan, plan.batch_size * plan.n_ctx, device)
    n_tokens, time_s = 0, 0.0
    model = without_dropout(model)
    with torch.inference_mode():
        record_batch(model, read_windows(stream, batches[0], device), plan, rows, 0)
        for windows in batches[1:] or batches:
            started = time.perf_counter()
            record_batch(model, read_windows(stream, windows, device), plan, rows, 0)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            n_tokens, time_s = n_tokens + windows.n_windows * windows.n_pos, time_s + time.perf_counter() - started
            if time_s >= _ENOUGH_S:
                break
    return n_tokens, time_s
