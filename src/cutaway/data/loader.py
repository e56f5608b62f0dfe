"""Batches of windows: random ones to train on, every one once to validate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.data.shards import TokenArray

__all__ = ["Batch", "Loader", "validation_batches", "batch_of", "cut_windows", "to_device"]

Batch = tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]
"""Tokens, and for each the token after it."""


class Loader:
    """Windows of `n_ctx` tokens from random places, `batch_size` at a time.

    Batch i is a function of `seed` and i alone, so the state is one number, and a run continues as if it had never stopped. Processes
    that share each batch take its `rows`. Raises ValueError when the text is shorter than one window.
    """

    def __init__(self, tokens: TokenArray, *, batch_size: int, n_ctx: int, seed: int, rows: slice = slice(None)) -> None:
        _check_length(tokens, n_ctx)
        self._rows = rows
        self._tokens, self._batch_size, self._n_ctx, self._seed = tokens, batch_size, n_ctx, seed
        self._n_drawn = 0

    def next_batch(self, device: torch.device | str = "cpu") -> Batch:
        """Draw the next batch, onto `device`."""
        random = np.random.default_rng((self._seed, self._n_drawn))
        self._n_drawn += 1
        starts = random.integers(len(self._tokens) - self._n_ctx, size=self._batch_size)
        return to_device(_windows(self._tokens, starts[self._rows], self._n_ctx), device)

    def has(self, n_batches: int) -> bool:  # noqa: ARG002
        """Return whether so many batches more are there: always, of a text."""
        return True

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands, as JSON values."""
        return {"seed": self._seed, "n_drawn": self._n_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where another loader over the same tokens stood."""
        self._seed, self._n_drawn = state["seed"], state["n_drawn"]


def validation_batches(
    tokens: TokenArray, *, batch_size: int, n_ctx: int, max_windows: int | None = None, part: slice = slice(None)
) -> Iterator[Batch]:
    """Yield the windows that tile `tokens`, each once; with `max_windows`, that many spread evenly over them; `part` of them alone."""
    _check_length(tokens, n_ctx)
    n_windows = (len(tokens) - 1) // n_ctx
    chosen = np.arange(n_windows)
    if max_windows is not None and max_windows < n_windows:
        chosen = np.linspace(0, n_windows - 1, max_windows).astype(np.int64)
    chosen = chosen[part]
    for first in range(0, len(chosen), batch_size):
        yield _windows(tokens, chosen[first : first + batch_size] * n_ctx, n_ctx)


def batch_of(windows: Sequence[TokenArray]) -> Batch:
    """Return windows that each have one token more than the model reads as a batch."""
    both = torch.from_numpy(np.stack(windows).astype(np.int64))
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def cut_windows(batch: Batch, n_tokens: int) -> tuple[Int[Tensor, "piece n_tokens"], Int[Tensor, "piece n_tokens"]]:
    """Return a batch with its windows cut into pieces of `n_tokens`, whose first tokens see nothing of what came before."""
    tokens, targets = batch
    return tokens.reshape(-1, n_tokens), targets.reshape(-1, n_tokens)  # batch (piece pos) -> (batch piece) pos


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return a batch on a device; from pinned memory the copy onto a GPU is queued, and nobody waits for it here."""
    inputs, targets = batch
    if torch.device(device).type == "cuda":
        inputs, targets = inputs.pin_memory(), targets.pin_memory()
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _windows(tokens: TokenArray, starts: np.ndarray, n_ctx: int) -> Batch:
    return batch_of([tokens[start : start + n_ctx + 1] for start in starts])


def _check_length(tokens: TokenArray, n_ctx: int) -> None:
    if len(tokens) <= n_ctx:
        raise ValueError(
            f"the text is {len(tokens)} tokens long and a window takes {n_ctx + 1} (n_ctx and the token after it): "
            "give a longer text or a smaller n_ctx"
        )
