"""Metrics: one number a row from the logits, which say which logits they read.

A sweep computes only those. Each is an ordinary function of full logits too; any function from `"batch pos d_vocab"` to `"batch"` may
stand in its place and gets them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.model.norms import at_least_float32

__all__ = ["Metric", "TokenIds", "logit_diff", "logit", "log_prob", "prob", "loss", "kl"]

TokenIds = int | Sequence[int] | Int[Tensor, "*batch"]
"""One token for every row, or each row's own."""


class Metric(ABC):
    """A function of logits that reads a few of them; larger `logit_diff`, `log_prob` and `prob` are better, `loss` and `kl` worse."""

    pos: int | None = None
    """The position whose logits are read, from a row's end where negative; None for all positions."""

    def ids(self, row: int) -> list[int] | None:  # noqa: ARG002
        """Return the tokens whose logits are read for a row; None for the whole vocabulary."""
        return None

    @abstractmethod
    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:
        """Return the metric of several runs of one row, from the logits that it reads, in the order of `positions` and `ids`."""

    def positions(self, n_pos: int) -> list[int]:
        """Return the positions that are read in a row of `n_pos` tokens; raises ValueError for one that is not there."""
        if self.pos is None:
            return list(range(n_pos))
        if not -n_pos <= self.pos < n_pos:
            raise ValueError(f"{self!r} reads position {self.pos} and the row has {n_pos} tokens")
        return [self.pos % n_pos]

    def check(self, n_rows: int, d_vocab: int) -> None:
        """Raise ValueError for tokens that are not in the vocabulary, or neither one for all rows nor one for each."""
        for tokens in vars(self).values():
            if not isinstance(tokens, list):
                continue
            if len(tokens) not in (1, n_rows):
                raise ValueError(f"{self!r} has {len(tokens)} tokens for {n_rows} rows; expected one for all, or one for each")
            if wrong := [token for token in tokens if not 0 <= token < d_vocab]:
                raise ValueError(f"{self!r}: there is no token {wrong[0]}; there are {d_vocab}, 0 to {d_vocab - 1}")

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], lengths: Sequence[int] | None = None) -> Float[Tensor, " batch"]:
        """Return the metric of every row of full logits."""
        return self.of_rows(logits, range(len(logits)), lengths)

    def of_rows(
        self, logits: Float[Tensor, "batch pos d_vocab"], rows: Sequence[int], lengths: Sequence[int] | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the metric of full logits that are of these rows, in any order; `lengths` are those of all rows."""
        return torch.cat(
            [self._of_row(x, row, None if lengths is None else int(lengths[row])) for x, row in zip(logits, rows, strict=True)]
        )

    def __repr__(self) -> str:
        return f"metrics.{type(self).__name__.strip('_').lower()}(pos={self.pos})"

    def _of_row(self, logits: Tensor, row: int, length: int | None) -> Tensor:
        positions, ids = self.positions(len(logits) if length is None else length), self.ids(row)
        read = logits[None, positions]
        return self.score(read if ids is None else read[..., ids], row, positions)


class _LogitDiff(Metric):
    def __init__(self, correct: TokenIds, wrong: TokenIds, pos: int) -> None:
        self.correct, self.wrong, self.pos = _listed(correct), _listed(wrong), pos

    def ids(self, row: int) -> list[int]:
        return [_id_of(self.correct, row), _id_of(self.wrong, row)]

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        return at_least_float32(logits)[:, 0, 0] - at_least_float32(logits)[:, 0, 1]


class _Logit(Metric):
    def __init__(self, token: TokenIds, pos: int) -> None:
        self.token, self.pos = _listed(token), pos

    def ids(self, row: int) -> list[int]:
        return [_id_of(self.token, row)]

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        return at_least_float32(logits)[:, 0, 0]


class _LogProb(Metric):
    def __init__(self, token: TokenIds, pos: int) -> None:
        self.token, self.pos = _listed(token), pos

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        return at_least_float32(logits)[:, 0].log_softmax(-1)[:, _id_of(self.token, row)]


class _Prob(_LogProb):
    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:
        return super().score(logits, row, positions).exp()


class _Loss(Metric):
    def __init__(self, tokens: Int[Tensor, "batch pos"], first: int, last: int | None) -> None:
        self.tokens, self.first, self.last = tokens, first, last

    def positions(self, n_pos: int) -> list[int]:
        stop = n_pos - 1 if self.last is None else min(self.last, n_pos - 1)
        if not 0 <= self.first < stop:
            raise ValueError(f"the loss of predictions {self.first} to {stop - 1} of a row of {n_pos} tokens: there are none")
        return list(range(self.first, stop))

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:
        following = self.tokens[row, [pos + 1 for pos in positions]].to(logits.device)
        return -at_least_float32(logits).log_softmax(-1).gather(-1, following.expand(len(logits), -1)[..., None])[..., 0].mean(-1)


class _KL(Metric):
    def __init__(self, base_logits: Float[Tensor, "batch pos d_vocab"], pos: int | None) -> None:
        self.base_logits, self.pos = base_logits, pos

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:
        base = at_least_float32(self.base_logits[row, list(positions)].to(logits.device)).log_softmax(-1)
        return (base.exp() * (base - at_least_float32(logits).log_softmax(-1))).sum(-1).mean(-1)


def logit_diff(correct: TokenIds, wrong: TokenIds, *, pos: int = -1) -> Metric:
    """Return the metric `logit[correct] - logit[wrong]` at a position (Wang et al. 2022, section 2); it reads two logits a row."""
    return _LogitDiff(correct, wrong, pos)


def logit(token: TokenIds, *, pos: int = -1) -> Metric:
    """Return the metric that is one token's logit at a position."""
    return _Logit(token, pos)


def log_prob(token: TokenIds, *, pos: int = -1) -> Metric:
    """Return the metric that is the log of a token's probability at a position, in nats; it reads the whole vocabulary."""
    return _LogProb(token, pos)


def prob(token: TokenIds, *, pos: int = -1) -> Metric:
    """Return the metric that is a token's probability at a position."""
    return _Prob(token, pos)


def loss(tokens: Int[Tensor, "batch pos"], *, first: int = 0, last: int | None = None) -> Metric:
    """Return the metric that is the mean loss in nats of predicting each next token, at positions `first` up to, not with, `last`."""
    return _Loss(tokens, first, last)


def kl(base_logits: Float[Tensor, "batch pos d_vocab"], *, pos: int | None = -1) -> Metric:
    """Return the metric KL(base || run) in nats at a position, or averaged over all with `pos=None`."""
    return _KL(base_logits, pos)


def _listed(tokens: TokenIds) -> list[int]:
    """Return one token, or each row's, as ints."""
    if isinstance(tokens, Tensor):
        return [int(token) for token in tokens.reshape(-1)]
    return [int(tokens)] if hasattr(tokens, "__index__") else [int(token) for token in tokens]


def _id_of(tokens: list[int], row: int) -> int:
    return tokens[row if len(tokens) > 1 else 0]
