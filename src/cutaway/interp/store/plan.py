"""What a store will hold, before anything is run: which activations of which tokens, in which shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cutaway.config import ModelConfig
from cutaway.interp.cache import cached_names
from cutaway.interp.sites import row_shape, site_of
from cutaway.interp.store.stream import TokenStream
from cutaway.interp.training_data import HELD_OUT
from cutaway.model import Transformer

__all__ = ["DTYPES", "StorePlan", "Windows", "plan_store"]

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What activations may be stored in."""

_USUAL_CTX = 128
_TOKENS_A_BATCH = {"cpu": 2048, "cuda": 32_768}


class Windows(NamedTuple):
    """Windows that run together: where their tokens begin in the stream, how many they are, and how long each is."""

    start: int
    n_windows: int
    n_pos: int


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """A stream of tokens cut into windows of `n_ctx`, the last perhaps shorter; windows into batches, batches into shards.

    A row is one token's activation. With `skip_first` the first token of each window has none.
    """

    shapes: Mapping[str, tuple[int, ...]]
    """The shape of one row of each activation, by name."""
    dtype: torch.dtype
    n_ctx: int
    n_tokens: int
    skip_first: bool
    batch_size: int
    """Windows that run together."""
    windows_per_shard: int

    @property
    def names(self) -> tuple[str, ...]:
        """The activations in the order of the computation."""
        return tuple(self.shapes)

    @property
    def n_rows(self) -> int:
        """How many rows there are of each activation."""
        return self.rows_before(self.n_tokens)

    @property
    def n_shards(self) -> int:
        """How many files there are."""
        return -(-self.n_tokens // (self.windows_per_shard * self.n_ctx))

    @property
    def row_bytes(self) -> int:
        """The bytes of one row of all activations."""
        return self.dtype.itemsize * sum(map(math.prod, self.shapes.values()))

    @property
    def n_bytes(self) -> int:
        """The bytes of all rows, with the tokens beside them."""
        return self.n_rows * self.row_bytes + 4 * self.n_tokens

    @property
    def n_windows(self) -> int:
        """How many windows there are, the last perhaps shorter."""
        return -(-self.n_tokens // self.n_ctx)

    @property
    def n_windows_learned(self) -> int:
        """How many windows training reads: the first, none of which reaches into the last tenth of the tokens."""
        return int(self.n_tokens * (1 - HELD_OUT)) // self.n_ctx

    def rows_before(self, token: int) -> int:
        """Return how many rows the tokens of the stream before this one have."""
        n_windows, rest = divmod(token, self.n_ctx)
        return n_windows * (self.n_ctx - self.skip_first) + max(0, rest - self.skip_first)

    def shard_tokens(self, shard: int) -> range:
        """Return where a shard's tokens lie in the stream."""
        n_tokens = self.windows_per_shard * self.n_ctx
        return range(shard * n_tokens, min((shard + 1) * n_tokens, self.n_tokens))

    def shard_rows(self, shard: int) -> range:
        """Return which rows a shard holds."""
        tokens = self.shard_tokens(shard)
        return range(self.rows_before(tokens.start), self.rows_before(tokens.stop))

    def batches(self, shard: int) -> Iterator[Windows]:
        """Yield the batches of a shard; a last window that is shorter comes alone."""
        tokens = self.shard_tokens(shard)
        n_whole = len(tokens) // self.n_ctx
        for first in range(0, n_whole, self.batch_size):
            n_windows = min(self.batch_size, n_whole - first)
            yield Windows(tokens.start + first * self.n_ctx, n_windows, self.n_ctx)
        if rest := len(tokens) % self.n_ctx:
            yield Windows(tokens.stop - rest, 1, rest)


def plan_store(
    model: Transformer,
    stream: TokenStream,
    names: str | Sequence[str],
    *,
    dtype: torch.dtype | None = None,
    ctx: int | None = None,
    batch_size: int | None = None,
    skip_first: bool = False,
    shard_gib: float = 0.25,
) -> StorePlan:
    """Return the plan of a store; raises ValueError for what cannot be stored: names, numbers or sizes that do not fit."""
    W_E = model.embed.W_E
    shapes, dtype = _row_shapes(model.config, names), W_E.dtype if dtype is None else dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"the dtype is {dtype}; activations are stored in {', '.join(DTYPES)}")
    n_ctx = _context(model.config, stream, ctx)
    if skip_first and n_ctx == 1:
        raise ValueError("skip_first leaves nothing of windows of one token: give a longer ctx")
    if shard_gib <= 0 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"batch_size is {batch_size} and shard_gib {shard_gib}; expected at least 1, and more than 0")
    window_gib = n_ctx * dtype.itemsize * sum(map(math.prod, shapes.values())) / 2**30
    most = int(shard_gib / window_gib)  # windows that a shard holds
    if most < (batch_size or 1):
        raise ValueError(
            f"{batch_size or 1} windows of {n_ctx} tokens are {(batch_size or 1) * window_gib:.3g} GiB of activations, which run "
            f"together, and a shard holds {shard_gib:g}: give a smaller batch_size, a larger shard_gib, a shorter ctx or fewer names"
        )
    batch_size = batch_size or max(1, min(_TOKENS_A_BATCH.get(W_E.device.type, 2048) // n_ctx, most))
    n_tokens = stream.n_tokens - (skip_first and stream.n_tokens % n_ctx == 1)  # a window that would have no row is not run
    if not n_tokens:
        raise ValueError(f"{stream.source} is one token, which skip_first leaves out: give a longer text")
    return StorePlan(
        shapes=shapes,
        dtype=dtype,
        n_ctx=n_ctx,
        n_tokens=n_tokens,
        skip_first=skip_first,
        batch_size=batch_size,
        windows_per_shard=most // batch_size * batch_size,
    )


def _row_shapes(config: ModelConfig, names: str | Sequence[str]) -> dict[str, tuple[int, ...]]:
    wanted = cached_names(config, names)
    if not wanted:
        raise ValueError("no activation is named: give names or globs, as 'blocks.3.resid_post'")
    if patterns := [name for name in wanted if site_of(name).is_attention]:
        raise ValueError(
            f"{patterns[0]!r} holds a number for every query and key and so has no row a token: name what heads read and write "
            "instead, as 'blocks.0.attn.z'"
        )
    return {name: row_shape(config, name, 1)[1:] for name in wanted}


def _context(config: ModelConfig, stream: TokenStream, ctx: int | None) -> int:
    if stream.n_row is not None and ctx not in (None, stream.n_row):
        raise ValueError(f"ctx is {ctx} and the tokens come in rows of {stream.n_row}: leave ctx out, or give the ids as one row")
    n_ctx = stream.n_row or (min(_USUAL_CTX, config.n_ctx) if ctx is None else ctx)
    if not 1 <= n_ctx <= config.n_ctx:
        raise ValueError(f"windows of {n_ctx} tokens do not fit the model's context: ctx is at least 1 and at most {config.n_ctx}")
    return n_ctx
