"""Edits put to work: resolved against a model and its tokens, and run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hook, Hooks
from cutaway.interp.edits import Edit
from cutaway.interp.selection import Selection
from cutaway.interp.sites import check_names, hook_order, row_shape, site_of
from cutaway.model import Transformer

__all__ = [
    "PlacedEdit",
    "place",
    "edit_hooks",
    "for_query_heads",
    "hooks_of_run",
    "row_lengths",
    "row_positions",
    "Lengths",
    "run_with_edits",
]

Lengths = Int[Tensor, " batch"] | Sequence[int] | None
"""How many tokens each row has where rows are filled up on the right; None where all are full."""


@dataclass(frozen=True)
class PlacedEdit:
    """An edit whose places are counted from 0 and whose value is that of the rows it is for."""

    edit: Edit
    selection: Selection
    value: Float[Tensor, "..."] | None
    is_causal: bool
    source: Selection | None = None
    """What the edit reads besides, of its source."""

    @property
    def positions(self) -> tuple[int, ...] | None:
        """The positions that it changes; None for all."""
        places = self.selection.places[self.selection.position_axis]
        return (places,) if isinstance(places, int) else places

    def at(self, positions: Sequence[int]) -> PlacedEdit | None:
        """Return the same edit at these of its positions alone; None for no position."""
        before, axis = self.positions, self.selection.position_axis
        if not positions:
            return None
        kept = list(positions) if before is None else [before.index(pos) for pos in positions]
        source = None if self.source is None else self.source.at(positions)
        return replace(self, selection=self.selection.at(positions), value=self._taking(self.value, axis, kept), source=source)

    def read_source(self, x: Float[Tensor, "*batch ..."], end: int) -> Float[Tensor, "..."] | None:
        """Return what the edit reads of its source, of rows that hold the last positions before `end`; None for none of them."""
        assert self.source is not None
        reading = replace(self, selection=self.source, value=None)
        selection, _ = reading._within(range(end - x.shape[self.source.position_axis - len(self.source.axes)], end))
        return None if selection is None else selection.read(x)

    def write(self, x: Float[Tensor, "*batch ..."], end: int, source: Float[Tensor, "..."] | None = None) -> None:
        """Change rows, or one row, in their own memory; they hold the last of the positions before `end`.

        `source` is what `read_source` returned in the same run, for an edit that has a source. Raises ValueError for values that do not
        fit, a function that returns something else, and what lies above the causal mask.
        """
        n_pos = x.shape[self.selection.position_axis - len(self.selection.axes)]
        selection, value = self._within(range(end - n_pos, end))
        if selection is None:
            return
        before = x.clone() if site_of(self.edit.name).is_attention else None
        old = selection.read(x)
        new = self.edit.new_value(old, None if value is None else value.to(x.device), source)
        if new.dtype != x.dtype:
            raise ValueError(
                f"{self.edit}: the value is {_short(new.dtype)} and the activation {_short(x.dtype)}: convert one of them"
            )
        try:
            selection.write(x, new)
        except RuntimeError:
            raise ValueError(f"{self.edit}: {tuple(new.shape)} does not fit what is selected, {tuple(old.shape)}") from None
        if before is not None:
            self._check_attention(before, x)

    def _within(self, window: range) -> tuple[Selection | None, Tensor | None]:
        """Return what lies in a window of positions, counted from its start."""
        axis, value = self.selection.position_axis, self.value
        positions = self.positions
        kept = [i for i, pos in enumerate(window if positions is None else positions) if positions is None or pos in window]
        if not kept:
            return None, None
        places = list(self.selection.places)
        if isinstance(places[axis], int):
            places[axis] = places[axis] - window.start  # type: ignore[operator]
        elif positions is not None:
            places[axis] = tuple(positions[i] - window.start for i in kept)
            value = self._taking(value, axis, kept)
        else:
            value = self._taking(value, axis, list(window))
        if "k_pos" in self.selection.axes:
            return self._seen(replace(self.selection, places=tuple(places)), value, window.stop)
        return replace(self.selection, places=tuple(places)), value

    def _seen(self, selection: Selection, value: Tensor | None, n_keys: int) -> tuple[Selection | None, Tensor | None]:
        """Return a selection of attention without keys that are not computed, as no query of the window sees them."""
        keys, axis = selection.places[-1], len(selection.places) - 1
        if keys is None:
            return selection, self._taking(value, axis, list(range(n_keys)))
        if isinstance(keys, int):
            return (selection, value) if keys < n_keys else (None, None)
        kept = [i for i, key in enumerate(keys) if key < n_keys]
        if not kept:
            return None, None
        seen = replace(selection, places=(*selection.places[:-1], tuple(keys[i] for i in kept)))
        return seen, self._taking(value, axis, kept)

    def _taking(self, value: Tensor | None, axis: int, places: list[int]) -> Tensor | None:
        """Return the value at some places of an axis that the selection keeps."""
        after = sum(not isinstance(each, int) for each in self.selection.places[axis:])
        if value is None or value.ndim < after or value.shape[-after] in (1, len(places)):
            return value
        return value.index_select(-after, torch.tensor(places, device=value.device))

    def _check_attention(self, before: Tensor, after: Tensor) -> None:
        n_queries, n_keys = after.shape[-2:]
        if self.is_causal:
            above = torch.ones(n_queries, n_keys, dtype=torch.bool, device=after.device).triu(1 + n_keys - n_queries)
            if not torch.equal(before[..., above], after[..., above]):
                raise ValueError(
                    f"{self.edit} writes above the causal mask, where a query would see what comes after it: name earlier keys"
                )
        if self.edit.kind == "knock_out" and bool(torch.isneginf(after).all(-1).any()):
            raise ValueError(f"{self.edit}: the query would see nothing at all; leave it a key")


def place(
    edit: Edit, config: ModelConfig, *, n_pos: int, n_rows: int, row: int | None = None, length: int | None = None
) -> PlacedEdit:
    """Return the edit of all rows, or of one whose tokens are the first `length`; raises ValueError for places that are not there."""
    shape = row_shape(config, edit.name, n_pos)
    selection = Selection.of(site_of(edit.name).axes, head=edit.head, pos=edit.pos, index=edit.index)
    selection = selection.resolved(shape, what=str(edit), length=length)
    if edit.kind == "knock_out" and config.is_causal:
        _check_seen(edit, selection, shape)
    value = edit.value
    if value is not None:
        kept = [size for size, places in zip(shape, selection.places, strict=True) if not isinstance(places, int)]
        _check_value(edit, value, kept, selection, n_rows)
        if row is not None and value.ndim > len(kept):
            value = value[row if value.shape[0] > 1 else 0]
    return PlacedEdit(edit, selection, value, config.is_causal, _source(edit, config, n_pos=n_pos, length=length))


def _source(edit: Edit, config: ModelConfig, *, n_pos: int, length: int | None) -> Selection | None:
    """Return what an edit reads besides; raises ValueError for what is computed after it."""
    if edit.source is None:
        return None
    order = hook_order(config)
    if order[edit.source] > order[edit.name]:
        raise ValueError(f"{edit}: {edit.source!r} is computed after {edit.name!r}: read what comes before")
    selection = Selection.of(site_of(edit.source).axes, pos=edit.pos)
    return selection.resolved(row_shape(config, edit.source, n_pos), what=str(edit), length=length)


def _check_seen(edit: Edit, selection: Selection, shape: Sequence[int]) -> None:
    """Raise ValueError for keys that come after one of the queries that they are kept from."""
    queries, keys = (
        range(size) if places is None else (places,) if isinstance(places, int) else places
        for places, size in zip(selection.places[-2:], shape[-2:], strict=True)
    )
    if max(keys) > min(queries):
        raise ValueError(f"{edit}: the query does not see one of these keys, which come after it")


def _check_value(edit: Edit, value: Tensor, kept: list[int], selection: Selection, n_rows: int) -> None:
    places = [each for each in selection.places if not isinstance(each, int)]
    wanted = [n_rows, *(size if each is None else len(each) for size, each in zip(kept, places, strict=True))]
    given = list(value.shape)
    fits = len(given) <= len(wanted) and all(
        size in (1, want) for size, want in zip(reversed(given), reversed(wanted), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{edit}: the value has shape {tuple(given)}; expected {tuple(wanted)} (batch first), or what broadcasts to it"
        )


def for_query_heads(model: Transformer, edits: Sequence[Edit]) -> tuple[Transformer, list[Edit]]:
    """Return the model and the edits to run: with a key or value of one query head in a group edited, each head has its own.

    Raises ValueError for names of activations that the model does not compute.
    """
    check_names(model.config, [name for edit in edits for name in (edit.name, edit.source) if name is not None])
    config = model.config
    if all(edit.query_head is None for edit in edits):
        return model, list(edits)
    from cutaway.interp.refactoring import ungroup_heads

    return ungroup_heads(model), [_ungrouped(edit, config) for edit in edits]


def _ungrouped(edit: Edit, config: ModelConfig) -> Edit:
    """Return the edit of a key and value head as one of all query heads that share it."""
    if "kv_head" not in site_of(edit.name).axes:
        return edit
    run = None if edit.provenance is None else edit.provenance.run
    if edit.query_head is not None:
        if not -config.n_heads <= edit.query_head < config.n_heads:
            raise ValueError(f"{edit}: there is no query head {edit.query_head}; there are {config.n_heads}")
        return replace(edit, head=edit.query_head % config.n_heads, query_head=None, run=run)
    n_group, value = config.n_heads // config.n_kv_heads, edit.value
    kept_after = 1 + (not isinstance(edit.index, int))
    if isinstance(edit.head, int) and value is not None and value.ndim >= kept_after:
        value = value.unsqueeze(1 - kept_after - 1)  # the head's axis, which an int had dropped
    elif value is not None and value.ndim >= kept_after and value.shape[-kept_after] > 1:
        value = value.repeat_interleave(n_group, dim=-kept_after)
    if edit.head is None:
        return replace(edit, value=value, run=run)
    heads = [edit.head] if isinstance(edit.head, int) else list(edit.head)
    heads = [head % config.n_kv_heads for head in heads]
    return replace(edit, value=value, head=tuple(head * n_group + i for head in heads for i in range(n_group)), run=run)


_Held = dict[tuple[int, int | None], Tensor | None]
"""What was read of sources in one run, by the placed edit and the row it is for."""


def edit_hooks(placed: Sequence[PlacedEdit], *, end: int, rows: Sequence[int] | None = None) -> dict[str, list[Hook]]:
    """Return the functions that apply edits to all rows of a batch, or each edit to a row of its own, by name of activation.

    They are for one run at a time: what edits read of their sources is kept among them, and let go of once it is written with.
    """
    by_name: dict[str, list[tuple[PlacedEdit, int | None]]] = {}
    for i, each in enumerate(placed):
        by_name.setdefault(each.edit.name, []).append((each, None if rows is None else rows[i]))
    held: _Held = {}
    hooks: dict[str, list[Hook]] = {name: [partial(_edited, edits=edits, end=end, held=held)] for name, edits in by_name.items()}
    for each, row in (pair for edits in by_name.values() for pair in edits):
        if each.edit.source is not None:
            hooks.setdefault(each.edit.source, []).append(partial(_read, placed=each, row=row, end=end, held=held))
    return hooks


def _edited(x: Tensor, _name: str, *, edits: list[tuple[PlacedEdit, int | None]], end: int, held: _Held) -> Tensor:
    x = x.clone()
    for placed, row in edits:
        placed.write(x if row is None else x[_row(placed, row)], end, held.pop((id(placed), row), None))
    return x


def _read(x: Tensor, _name: str, *, placed: PlacedEdit, row: int | None, end: int, held: _Held) -> None:
    held[id(placed), row] = placed.read_source(x if row is None else x[_row(placed, row)], end)


def _row(placed: PlacedEdit, row: int) -> int | slice:
    """Return how to take a row: a function that does not declare what it reads is handed its batch axis, of one row."""
    return slice(row, row + 1) if placed.edit.kind == "apply" and placed.edit.reads == "all" else row


def run_with_edits(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    edits: Sequence[Edit],
    *,
    lengths: Lengths = None,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of a run with edits, in the order given.

    `lengths` are the tokens of each row where rows are filled up on the right: a negative position counts from a row's own end. Raises
    ValueError for an edit that does not fit the model or the tokens.
    """
    sizes = row_lengths(model, tokens, lengths)
    model, edits = for_query_heads(model, edits)
    hooks = hooks_of_run(model, tokens, edits, lengths=sizes)
    return model(tokens, positions=row_positions(tokens, [edit.name for edit in edits]), hooks=Hooks(hooks))  # type: ignore[no-any-return]


def row_lengths(model: Transformer, tokens: Tensor, lengths: Lengths = None) -> tuple[int, ...] | None:
    """Return the rows' lengths, None where all are full.

    Raises ValueError for tokens that are not "batch pos" or more than the context, for lengths that do not fit them, and for rows of
    different lengths in a bidirectional model, where every position would see what a row is filled up with.
    """
    if tokens.ndim != 2:
        raise ValueError(
            f"tokens have the shape {tuple(tokens.shape)}; expected two axes, batch and pos: lm.tokens(text) gives them"
        )
    n_rows, n_pos = tokens.shape
    model.next_positions(n_pos)  # raises for none, and for more than n_ctx
    if lengths is None:
        return None
    sizes = tuple(map(int, lengths))
    if len(sizes) != n_rows or not all(1 <= size <= n_pos for size in sizes):
        raise ValueError(f"lengths are {list(sizes)}; expected one for each of the {n_rows} rows, 1 to {n_pos}")
    if set(sizes) == {n_pos}:
        return None
    if not model.config.is_causal:
        raise ValueError(
            "in a bidirectional model every position sees what rows are filled up with: run rows of one length at a time"
        )
    return sizes


def hooks_of_run(
    model: Transformer, tokens: Int[Tensor, "batch pos"], edits: Sequence[Edit], *, lengths: Sequence[int] | Tensor | None = None
) -> dict[str, list[Hook]]:
    """Return the functions that make a run of these tokens one with edits."""
    n_rows, n_pos = tokens.shape
    if lengths is None:
        placed = [place(edit, model.config, n_pos=n_pos, n_rows=n_rows) for edit in edits]
        return edit_hooks(placed, end=n_pos)
    each_row = [(row, int(lengths[row]), edit) for edit in edits for row in range(n_rows)]
    placed = [place(edit, model.config, n_pos=n_pos, n_rows=n_rows, row=row, length=length) for row, length, edit in each_row]
    return edit_hooks(placed, end=n_pos, rows=[row for row, _, _ in each_row])


def row_positions(tokens: Tensor, names: Sequence[str]) -> Tensor | None:
    """Return the positions of every row, which makes `pos_embed` an activation with rows, where that is among the names."""
    if "pos_embed" not in names:
        return None
    return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
