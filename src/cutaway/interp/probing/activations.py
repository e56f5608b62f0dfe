"""Rows to probe: activations of labelled texts, one row a text and position, or one a labelled token."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.cache import ActivationCache, cache_gib, cached_names
from cutaway.interp.probing.task import Label, Task
from cutaway.interp.rows import Rows, model_of
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import site_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["Labels", "Place", "Spots", "labelled_spots", "activations_of", "activations_in", "cache_rows"]

Labels = Sequence[Label] | Sequence[Sequence[Label | None]] | Tensor
"""A label for each text; or a list of labels for each, one a token, None for a token that is left out."""

_TOKENS_A_RUN = 1024


@dataclass(frozen=True)
class Place:
    """Where a probe reads: an activation at a position of every text, or at every labelled token."""

    name: str
    pos: int | None


@dataclass(frozen=True, eq=False)
class Spots:
    """Which positions of which texts are rows."""

    rows: Rows
    row: Int[Tensor, " row"]
    """Which text each row is of."""
    at: Int[Tensor, " row"]
    """The position in it, from 0."""

    @classmethod
    def at_position(cls, rows: Rows, pos: int) -> Spots:
        """Return one position of every text, from its end where negative; raises ValueError for one that a text lacks."""
        for text, length in enumerate(rows.lengths):
            if not -length <= pos < length:
                raise ValueError(
                    f"text {text} has {length} tokens, so there is no position {pos} in it: give one that every text has"
                )
        return cls(rows, torch.arange(len(rows.lengths)), torch.tensor([pos % length for length in rows.lengths]))

    @classmethod
    def after_first(cls, rows: Rows) -> Spots:
        """Return every position of every text but its first; raises ValueError for a text of one token."""
        if min(rows.lengths) < 2:
            raise ValueError("a text has one token, and the first is left out: give longer texts, or a position")
        row = torch.arange(len(rows.lengths)).repeat_interleave(torch.tensor(rows.lengths) - 1)
        return cls(rows, row, torch.cat([torch.arange(1, length) for length in rows.lengths]))

    @property
    def words(self) -> Int[Tensor, " row"]:
        """The token at each."""
        return self.rows.tokens.cpu()[self.row, self.at]


def labelled_spots(
    rows: Rows, labels: Labels, *, pos: int | None, groups: Sequence[Hashable] | Tensor | None = None, is_number: bool = False
) -> tuple[Spots, Task]:
    """Return the rows of labelled texts, at one position or with None at their labelled tokens, and what they are told apart by.

    Texts of the same tokens belong together, whatever `groups` say besides: none of them is learned where another is tested. Raises
    ValueError for counts of labels that do not match, positions that a text lacks, and as `Task.of` does.
    """
    n_texts = len(rows.tokens)
    each: list[Any] = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(each) != n_texts:
        raise ValueError(f"there are {n_texts} texts and {len(each)} labels: give one for each text, or a list of one a token")
    if groups is not None and len(groups) != n_texts:
        raise ValueError(f"there are {n_texts} texts and {len(groups)} groups: give one for each text")
    is_by_token = all(isinstance(label, list | tuple) for label in each)
    if is_by_token != (pos is None):
        raise ValueError(
            f"each text has a list of labels, one a token, and position {pos} was asked for: give no position"
            if is_by_token
            else "each text has one label: say at which position it is read (pos), or give a list of labels for each, one a token"
        )
    if pos is None:
        spots, flat = _labelled_tokens(rows, each)
    else:
        spots, flat = Spots.at_position(rows, pos), each
    of_text: list[Hashable] = (
        list(range(n_texts)) if groups is None else groups.tolist() if isinstance(groups, Tensor) else list(groups)
    )
    of_text = _with_same_texts(rows, of_text)
    of_row = [of_text[text] for text in spots.row.tolist()]
    return spots, Task.of(flat, groups=of_row, words=spots.words, is_number=is_number)


def activations_of(
    lm: LanguageModel | Transformer, names: str | Sequence[str], spots: Sequence[Spots], *, max_gib: float = 2.0
) -> dict[str, list[Float[Tensor, "row d"]]]:
    """Return the rows of each activation at these spots, in few runs; heads stand beside each other in a row.

    Raises ValueError for activations without a position of their own, and for more than `max_gib` of rows.
    """
    model, rows = model_of(lm), spots[0].rows
    wanted = _checked_names(model, names)
    n_rows = sum(len(each.row) for each in spots)
    dtype = model.embed.W_E.dtype
    needed = cache_gib(model.config, batch=n_rows, n_pos=1, names=wanted, dtype=dtype)
    if needed > max_gib:
        raise ValueError(
            f"{n_rows:,} rows of {len(wanted)} activations take {needed:.2f} GiB and {max_gib:.2f} may be used: name fewer of "
            "them, label fewer tokens, or give max_gib"
        )
    layers = [site_of(name).layer for name in wanted]
    stop = None if None in layers and wanted != ["embed"] else max((layer or 0 for layer in layers), default=0)
    kept: dict[str, list[list[Tensor]]] = {name: [[] for _ in spots] for name in wanted}
    size = max(1, _TOKENS_A_RUN // rows.tokens.shape[1])
    model = without_dropout(model)
    for start in range(0, len(rows.tokens), size):
        here = slice(start, start + size)
        lengths = None if rows.is_even else rows.lengths[here]
        _, cache = run_with_cache(model, rows.tokens[here], wanted, lengths=lengths, stop_after_layer=stop)
        for name in wanted:
            for number, each in enumerate(spots):
                chosen = (each.row >= start) & (each.row < start + size)
                kept[name][number].append(_rows_at(cache[name], each.row[chosen] - start, each.at[chosen]))
    return {name: [torch.cat(parts) for parts in each] for name, each in kept.items()}


def activations_in(cache: ActivationCache, names: str | Sequence[str] | None, spots: Spots) -> dict[str, Float[Tensor, "row d"]]:
    """Return the rows of a cache's activations; None for all in it that have a row at every position."""
    given = [name for name in cache if _has_rows(name)] if names is None else _checked_names(cache.model, names)
    at = torch.tensor([cache.position_axis(int(pos)) for pos in spots.at])
    return {name: _rows_at(cache[name], spots.row, at) for name in given}


def cache_rows(cache: ActivationCache) -> Rows:
    """Return the tokens of a cache as rows."""
    return Rows(cache.tokens, cache.lengths or (cache.tokens.shape[1],) * len(cache.tokens))


def _rows_at(x: Tensor, row: Tensor, at: Tensor) -> Float[Tensor, "row d"]:
    found: Tensor = x[row.to(x.device), at.to(x.device)].flatten(1)
    return found.cpu()


def _has_rows(name: str) -> bool:
    return not site_of(name).is_attention and name not in ("logits", "pos_embed")


def _checked_names(model: Transformer, names: str | Sequence[str]) -> list[str]:
    wanted = cached_names(model.config, names)
    if wrong := [name for name in wanted if not _has_rows(name)]:
        raise ValueError(f"{wrong[0]!r} has no vector at each position of a text to be probed: take the residual stream, z, an MLP")
    return wanted


def _with_same_texts(rows: Rows, groups: Sequence[Hashable]) -> list[Hashable]:
    """Return for each text its group, those that have a text in common being one: the first of them."""
    first: dict[Hashable, Hashable] = {}  # of a group, one that it belongs to

    def root(group: Hashable) -> Hashable:
        while first.get(group, group) != group:
            group = first[group]
        return group

    seen: dict[tuple[int, ...], Hashable] = {}
    for ids, length, group in zip(rows.tokens.tolist(), rows.lengths, groups, strict=True):
        known = seen.setdefault(tuple(ids[:length]), group)
        first[root(group)] = root(known)
    return [root(group) for group in groups]


def _labelled_tokens(rows: Rows, labels: Sequence[Sequence[Label | None]]) -> tuple[Spots, list[Label]]:
    for text, (length, each) in enumerate(zip(rows.lengths, labels, strict=True)):
        if len(each) != length:
            raise ValueError(
                f"text {text} has {length} tokens and {len(each)} labels: give one a token, None for those to leave out"
            )
    found = [(text, at, label) for text, each in enumerate(labels) for at, label in enumerate(each) if label is not None]
    row, at = (torch.tensor([place[axis] for place in found], dtype=torch.long) for axis in (0, 1))
    return Spots(rows, row, at), [label for _, _, label in found]
