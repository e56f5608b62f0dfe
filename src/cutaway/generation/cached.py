"""The logits of the next token, for a batch of rows that grow: each step reads only what is new."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.model import KVCache, Transformer

__all__ = ["CachedDecoder"]


class CachedDecoder:
    """Rows of tokens and the keys and values of what was read of them.

    A row longer than `n_ctx` is read through the window of its last `n_ctx` tokens. Positions then shift with every token, so nothing
    cached holds any more and each step reads its whole window: exact, and slower, which `tell` hears once.
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        n_slots: int | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> None:
        if not model.config.is_causal:
            raise ValueError(
                "this model reads both ways: it judges a text that is whole and adds nothing to it; in Python its judgement is "
                "lm.model(lm.tokens(text))[:, -1]"
            )
        if not prompts or not all(prompts):
            raise ValueError("a prompt has no tokens; give at least one token to go on from")
        if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; expected a whole number of at least 0")
        self.rows = [list(prompt) for prompt in prompts]
        self._model, self._tell, self._is_told = model, tell, False
        self._cached = self._rows_that_fit()  # which rows the cache holds, in its order
        n_slots = n_slots or min(model.config.n_ctx, max(map(len, prompts)) + max_new_tokens)
        weight = model.embed.W_E
        self._kv = KVCache(model.config, batch=len(self._cached), n_slots=n_slots, dtype=weight.dtype, device=weight.device)
        self._device = weight.device

    def read_prompts(self) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits after each prompt."""
        return self._join(self._read_windows(self._cached, self._kv) if self._cached else None)

    def append(self, tokens: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
        """Add one token to each row and return the logits after it."""
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)
        fitting = self._rows_that_fit()
        if len(fitting) < len(self._cached):
            self._keep(
                [self._cached.index(row) for row in fitting], n_read=max((len(self.rows[row]) - 1 for row in fitting), default=0)
            )
            self._cached = fitting
        return self._join(self._read_last(fitting) if fitting else None)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may be taken more than once."""
        places = [self._cached.index(row) for row in rows if row in self._cached]
        self._cached = [place for place, row in enumerate(rows) if row in self._cached]
        self.rows = [list(self.rows[row]) for row in rows]
        self._keep(places, n_read=max((len(self.rows[row]) for row in self._cached), default=0))

    def _rows_that_fit(self) -> list[int]:
        return [row for row, tokens in enumerate(self.rows) if len(tokens) <= self._model.config.n_ctx]

    def _keep(self, places: list[int], *, n_read: int) -> None:
        """Keep these rows of the cache, the longest of which has `n_read` positions in it."""
        self._kv.select_rows(torch.tensor(places, dtype=torch.long, device=self._device))
        self._kv.rewind(n_read)

    def _join(self, of_cached: Tensor | None) -> Tensor:
        """Return the logits of all rows, in order, given those of the rows in the cache: the others read their windows."""
        sliding = sorted(set(range(len(self.rows))) - set(self._cached))
        if not sliding:
            assert of_cached is not None
            return of_cached
        if not self._is_told:
            self._is_told = True
            n_ctx = self._model.config.n_ctx
            self._tell(f"past the context of {n_ctx} tokens each new token reads the last {n_ctx} anew, which is slower")
        of_sliding = self._read_windows(sliding, None)
        if of_cached is None:
            return of_sliding
        order = torch.tensor([*self._cached, *sliding], device=self._device).argsort()
        return torch.cat([of_cached, of_sliding])[order]

    def _read_last(self, rows: Sequence[int]) -> Float[Tensor, "batch d_vocab"]:
        """Read the last token of each of these rows, all of them in the cache."""
        new = torch.tensor([self.rows[row][-1:] for row in rows], device=self._device)  # batch 1
        positions = torch.tensor([[len(self.rows[row]) - 1] for row in rows], device=self._device)
        is_level = bool((positions == positions[0]).all())
        return self._read(new, positions[0] if is_level else positions, self._kv)[:, -1]

    def _read_windows(self, rows: Sequence[int], kv: KVCache | None) -> Float[Tensor, "batch d_vocab"]:
        """Read the last `n_ctx` tokens of each of these rows, filled up on the right, where no earlier position looks."""
        windows = [self.rows[row][-self._model.config.n_ctx :] for row in rows]
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
