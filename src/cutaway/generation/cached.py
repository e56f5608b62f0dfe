"""The logits of the next token, for a batch of rows that grow: each step reads only what is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.model import KVCache, Transformer

__all__ = ["CachedDecoder"]


class CachedDecoder:
    """Rows of tokens and the keys and values of what was read of them.

    A row longer than `n_ctx` is read through the window of its last `n_ctx` tokens. Positions then shift with every token, so nothing
    cached holds any more and each step reads a whole window: exact, and slower.
    """

    def __init__(
        self, model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, n_slots: int | None = None
    ) -> None:
        if not prompts or not all(prompts):
            raise ValueError("a prompt has no tokens; give at least one token to go on from")
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 0")
        self.rows = [list(prompt) for prompt in prompts]
        self._model = model
        n_slots = n_slots or min(model.config.n_ctx, max(map(len, prompts)) + max_new_tokens)
        weight = model.embed.W_E
        self._kv = KVCache(model.config, batch=len(prompts), n_slots=n_slots, dtype=weight.dtype, device=weight.device)
        self._device = weight.device

    @property
    def is_sliding(self) -> bool:
        """Whether a row has outgrown the context, so that every step reads a whole window."""
        return max(map(len, self.rows)) > self._model.config.n_ctx

    def read_prompts(self) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits after each prompt."""
        return self._read_windows(None if self.is_sliding else self._kv)

    def append(self, tokens: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
        """Add one token to each row and return the logits after it."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)
        if self.is_sliding:
            return self._read_windows(None)
        lengths = [len(row) for row in self.rows]
        new = torch.tensor(tokens, device=self._device)[:, None]
        positions = torch.tensor(lengths, device=self._device)[:, None] - 1  # batch pos
        return self._read(new, positions[0] if len(set(lengths)) == 1 else positions, self._kv)[:, -1]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may be taken more than once."""
        self.rows = [list(self.rows[row]) for row in rows]
        self._kv.select_rows(torch.tensor(rows, device=self._device))

    def _read_windows(self, kv: KVCache | None) -> Tensor:
        """Read the last `n_ctx` tokens of each row, filled up on the right, where no earlier position looks."""
        windows = [row[-self._model.config.n_ctx :] for row in self.rows]
        lengths = torch.tensor([len(window) for window in windows], device=self._device)
        width = int(lengths.max())
        tokens = torch.tensor([window + [0] * (width - len(window)) for window in windows], device=self._device)
        return self._read(tokens, torch.arange(width, device=self._device), kv, last=lengths - 1).squeeze(1)

    def _read(self, tokens: Tensor, positions: Tensor, kv: KVCache | None, *, last: Tensor | None = None) -> Tensor:
        """Return the logits at each row's position `last` alone."""
        resid = self._model.run_blocks(self._model.embed(tokens, positions), positions=positions, kv=kv)
        if last is not None:
            resid = resid[torch.arange(len(tokens), device=self._device), last].unsqueeze(1)  # batch 1 d_model
        logits: Tensor = self._model.unembed(resid)
        return logits
