"""Edits: changes to activations as values, which print, travel as JSON, and say where they act.

An edit is where (name, head, positions, coordinates) and what (zero, mean, replace, patch, scale, add, project, swap, knock out, or any
function). A run applies edits through hooks; a sweep reads from them the earliest layer and position that each can touch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import canonical_name
from cutaway.interp.provenance import PlainRun, Provenance, n_changes
from cutaway.interp.selection import Selection
from cutaway.interp.sites import site_of
from cutaway.interp.tensors import from_json, to_json
from cutaway.model.norms import at_least_float32

if TYPE_CHECKING:
    from cutaway.interp.cache import ActivationCache

__all__ = ["Edit", "Kind", "Index", "zero", "mean", "replace", "patch", "scale", "add", "project", "swap", "knock_out", "apply"]

Kind = Literal["zero", "mean", "replace", "patch", "scale", "add", "project", "swap", "knock_out", "apply"]
Index = int | Sequence[int] | None
"""Where along one axis: a place, several, or None for all."""

_NEEDS: dict[Kind, tuple[str, ...]] = {
    **dict.fromkeys(("mean", "replace", "patch", "add"), ("value",)),
    "project": ("directions",),
    "swap": ("directions", "value"),
    "apply": ("function",),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """One change of one activation; made by the functions of this module.

    `pos` counts from the row's end where it is negative, and is the query's position for `pattern` and `attn_scores`; `index` picks
    coordinates of the last axis: neurons, dimensions, or keys. `head` is a head of the activation's own axis, for `k` and `v` one of
    keys and values; `query_head` changes them for one query head of a group alone. An int drops its axis from the shape that a value
    has, as numpy does; a value without the batch axis is for every row.
    """

    kind: Kind
    name: str
    head: Index = None
    pos: Index = None
    index: Index = None
    query_head: int | None = None
    value: Float[Tensor, "..."] | None = None
    """What comes in or is added, in the shape of what is selected."""
    factor: float = 1.0
    """What scale multiplies with."""
    directions: Float[Tensor, "direction d"] | None = None
    """An orthonormal basis of the subspace that project and swap act in."""
    function: Callable[..., Tensor] | None = None
    """What apply calls."""
    source: str | None = None
    """Another activation that the function is handed too: what the same run computed of it before, at the same positions."""
    reads: Literal["all", "selection"] = "all"
    """What that function depends on: what it is handed, or anything at all."""
    run: InitVar[PlainRun | None] = None
    provenance: Provenance | None = field(init=False, repr=False)
    """That the value is from this plain run, each position at its own place; not of a copy that `dataclasses.replace` made."""
    src_pos: Index = None
    """Where in that run a patch comes from, when that is elsewhere."""

    def __post_init__(self, run: PlainRun | None) -> None:
        known = None if run is None or self.value is None else Provenance(run, n_changes(self.value))
        object.__setattr__(self, "provenance", known)
        object.__setattr__(self, "name", canonical_name(self.name))
        if any(sign in self.name for sign in "*?["):
            raise ValueError(f"{self.name!r} stands for several activations; an edit is of one: write an edit for each")
        for place in ("head", "pos", "index", "src_pos"):
            object.__setattr__(self, place, _counted(getattr(self, place), f"{place} of {self.name!r}"))
        if lacking := [each for each in _NEEDS.get(self.kind, ()) if getattr(self, each) is None]:
            raise ValueError(f"an edit of kind {self.kind!r} of {self.name!r} lacks its {' and its '.join(lacking)}")
        axes = site_of(self.name).axes
        if self.source is not None:
            self._check_source(canonical_name(self.source))
        if self.head is not None and self.query_head is not None:
            raise ValueError(f"head {self.head} and query_head {self.query_head} of {self.name!r} do not go together: give one")
        if self.head is not None and not {"head", "kv_head"} & set(axes):
            raise ValueError(f"{self.name!r} has no heads (its axes are {' '.join(axes)}): leave out head")
        if self.query_head is not None and "kv_head" not in axes:
            raise ValueError(f"query_head is for k and v; {self.name!r} has the axes {' '.join(axes)}: give head")

    def _check_source(self, source: str) -> None:
        object.__setattr__(self, "source", source)
        if self.kind != "apply" or self.reads != "all":
            raise ValueError(f"{self} reads {source!r} besides: only a function does, and with reads='all'")
        if source in (self.name, "pos_embed") or any(sign in source for sign in "*?["):
            raise ValueError(f"{self} is to read {source!r}; expected one other activation that has a row for every prompt")

    def __str__(self) -> str:
        places = {name: getattr(self, name) for name in ("head", "query_head", "pos", "index")}
        where = [f"{name} {_listed(each)}" for name, each in places.items() if each is not None]
        where += [] if self.source is None else [f"from {self.source}"]
        what = f"scale by {self.factor:g}" if self.kind == "scale" else self.kind.replace("_", " ")
        return f"{what} {self.name}" + (f" ({', '.join(where)})" if where else "")

    def new_value(self, x: Float[Tensor, "..."], value: Tensor | None, source: Tensor | None = None) -> Float[Tensor, "..."]:
        """Return what stands in the place of the selected `x`; `value` is the edit's own for the selected rows and positions.

        `source` is what was computed of the edit's source; raises ValueError where it has one and that was not.
        """
        match self.kind:
            case "zero":
                return torch.zeros_like(x)
            case "scale":
                return x * self.factor
            case "project":
                return x - _along(x, self)
            case "knock_out":
                return torch.full_like(x, -torch.inf)
            case "apply":
                return _called(x, self, source)
        assert value is not None
        match self.kind:
            case "add":
                return x + value
            case "swap":
                return x + _along(value - x, self)
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the edit as values that JSON can hold, tensors bit for bit; raises ValueError for one that calls a function."""
        if self.function is not None:
            raise ValueError(f"{self} calls a Python function, which JSON cannot hold: write it as another kind of edit")
        names = ["kind", "name", "head", "pos", "index", "query_head", "src_pos", *(["factor"] if self.kind == "scale" else [])]
        fields: dict[str, Any] = {name: each for name in names if (each := getattr(self, name)) is not None}
        plain = {name: list(each) if isinstance(each, tuple | list) else each for name, each in fields.items()}
        tensors = {name: to_json(tensor) for name in ("value", "directions") if (tensor := getattr(self, name)) is not None}
        return plain | tensors

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Edit:
        """Return the edit that `to_dict` wrote; raises ValueError for what is none."""
        known = {"kind", "name", "head", "pos", "index", "query_head", "factor", "src_pos", "value", "directions"}
        if unknown := values.keys() - known:
            raise ValueError(f"an edit has no field {', '.join(sorted(unknown))}; the fields are {', '.join(sorted(known))}")
        if values.get("kind") not in set(get_args(Kind)) - {"apply"}:
            raise ValueError(f"an edit's kind is {values.get('kind')!r}; expected one of {', '.join(get_args(Kind)[:-1])}")
        if "name" not in values:
            raise ValueError("an edit lacks the name of an activation")
        if type(values.get("factor", 1.0)) not in (int, float):
            raise ValueError(f"an edit's factor is {values['factor']!r}; expected a number")
        tensors = {name: from_json(values[name]) for name in ("value", "directions") if name in values}
        fields: dict[str, Any] = values | tensors
        return cls(**fields)


def zero(name: str, *, head: Index = None, pos: Index = None, index: Index = None, query_head: int | None = None) -> Edit:
    """Put zeros in the place of an activation.

    >>> print(zero("blocks.9.attn.z", head=6))
    zero blocks.9.attn.z (head 6)
    """
    return Edit(kind="zero", name=name, head=head, pos=pos, index=index, query_head=query_head)


def mean(name: str, value: Float[Tensor, "..."], **where: Any) -> Edit:
    """Put an activation's mean, computed over other text, in its place (`cutaway.means` computes it)."""
    return Edit(kind="mean", name=name, value=value, **where)


def replace(name: str, value: Float[Tensor, "..."], **where: Any) -> Edit:
    """Put a tensor in the place of an activation: of the selected shape, with or without the batch axis."""
    return Edit(kind="replace", name=name, value=value, **where)


def patch(
    name: str,
    cache: ActivationCache,
    *,
    head: Index = None,
    pos: Index = None,
    index: Index = None,
    query_head: int | None = None,
    src_pos: Index = None,
) -> Edit:
    """Put the activation of another run in its place (activation patching; Meng et al. 2022, Wang et al. 2022).

    `src_pos` are the positions in the other run that go to `pos` in this, where prompts differ in length; they count from the end of
    each of its rows where they are negative and the cache knows the rows' lengths. Raises ValueError for a cache without the activation
    or the positions.
    """
    name = canonical_name(name)
    if name not in cache:
        raise ValueError(f"the cache to patch from has no {name!r}: record it with run_with_cache(..., names={name!r})")
    if (pos is None) != (src_pos is None) and src_pos is not None:
        raise ValueError("src_pos says where in the other run each position of pos comes from: give pos too")
    value = _at(cache, name, head=head, pos=pos if src_pos is None else src_pos, index=index, query_head=query_head)
    run = cache.run_of(name) if src_pos is None and cache.lengths is None else None
    return Edit(
        kind="patch",
        name=name,
        head=head,
        pos=pos,
        index=index,
        query_head=query_head,
        value=value,
        run=run,
        src_pos=src_pos,
    )


def scale(name: str, factor: float, **where: Any) -> Edit:
    """Multiply an activation by a number."""
    return Edit(kind="scale", name=name, factor=factor, **where)


def add(name: str, vector: Float[Tensor, "..."], **where: Any) -> Edit:
    """Add a tensor to an activation: a steering vector, or noise."""
    return Edit(kind="add", name=name, value=vector, **where)


def project(name: str, directions: Float[Tensor, "... d"], **where: Any) -> Edit:
    """Take away what lies in the span of one direction or several (directional ablation; Arditi et al. 2024, section 2.4)."""
    return Edit(kind="project", name=name, directions=_orthonormal(directions), **where)


def swap(name: str, directions: Float[Tensor, "... d"], value: Float[Tensor, "..."], **where: Any) -> Edit:
    """Put the part of `value` that lies in a span in the place of the activation's own part there.

    Interchange along learned directions: Geiger et al. 2023, "Finding Alignments Between Interpretable Causal Variables", section 3.
    """
    return Edit(kind="swap", name=name, directions=_orthonormal(directions), value=value, **where)


def knock_out(layers: int | Sequence[int], pairs: Sequence[tuple[int, int]], *, head: Index = None) -> list[Edit]:
    """Keep queries from seeing keys, in one layer or a window of them: `pairs` are (query, key) positions.

    Source: Geva et al. 2023, "Dissecting Recall of Factual Associations", section 5. A run raises ValueError for a
    query that does not see the key, and where it would see none at all.
    """
    keys_of: dict[int, list[int]] = {}
    for query, key in dict.fromkeys(pairs):
        keys_of.setdefault(query, []).append(key)
    return [
        Edit(kind="knock_out", name=f"blocks.{layer}.attn.attn_scores", head=head, pos=query, index=tuple(keys))
        for layer in ([layers] if isinstance(layers, int) else layers)
        for query, keys in keys_of.items()
    ]


def apply(
    name: str,
    function: Callable[..., Tensor],
    *,
    source: str | None = None,
    reads: Literal["all", "selection"] = "all",
    **where: Any,
) -> Edit:
    """Put what a function makes of an activation in its place.

    With `source`, the name of an activation that is computed before, it is called with what the same run has there as well, at the same
    positions: `function(x, of_source)`.

    The function is handed what is selected and returns as much. With `reads="selection"` you promise that it depends on that alone, row
    by row and position by position, and a sweep may hand it one row without the batch axis; otherwise a sweep runs the whole model.
    """
    return Edit(kind="apply", name=name, function=function, source=source, reads=reads, **where)


def _at(cache: ActivationCache, name: str, *, head: Index, pos: Index, index: Index, query_head: int | None) -> Tensor:
    """Return what a cache holds at these places of a run, whose positions it may have kept in part."""
    x, what = cache[name], f"the cache of {name}"
    config = cache.model.config
    group = head if query_head is None else query_head // (config.n_heads // config.n_kv_heads)
    if cache.pos is not None and pos is None:
        raise ValueError(f"{what} kept the positions {', '.join(map(str, cache.pos))} alone: give pos")
    axes = site_of(name).axes
    if cache.lengths is None or pos is None:
        at = pos if pos is None else cache.kept(pos)
        return Selection.of(axes, head=group, pos=at, index=index).resolved(x.shape[1:], what=what).read(x)
    rows = [
        Selection.of(axes, head=group, pos=cache.kept(pos, length=length), index=index)
        .resolved(x.shape[1:], what=what)
        .read(x[row])
        for row, length in enumerate(cache.lengths)
    ]
    return torch.stack(rows)


def _counted(places: Any, what: str) -> Index:
    """Return places as ints; raises ValueError for what is none and for an empty list."""
    try:
        if places is None or hasattr(places, "__index__"):
            return None if places is None else operator.index(places)
        counted = tuple(operator.index(place) for place in places)
    except TypeError:
        raise ValueError(f"{what} is {places!r}; expected an int, several, or None for all") from None
    if not counted:
        raise ValueError(f"{what} is empty; give at least one place, or None for all")
    return counted


def _listed(places: int | Sequence[int]) -> str:
    return str(places) if isinstance(places, int) else str(list(places))


def _orthonormal(directions: Tensor) -> Tensor:
    """Return an orthonormal basis, "direction d", of what the directions span; raises ValueError for those that span nothing."""
    rows = at_least_float32(directions.reshape(-1, directions.shape[-1]))
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    tiny = sizes.max() * max(rows.shape) * torch.finfo(rows.dtype).eps
    if not sizes.max() > 0:
        raise ValueError("the directions are all zero; give at least one that is not")
    kept: Tensor = basis[sizes > tiny].to(directions.dtype)
    return kept


def _along(x: Tensor, edit: Edit) -> Tensor:
    basis = edit.directions
    assert basis is not None
    if basis.shape[-1] != x.shape[-1]:
        raise ValueError(f"{edit}: the directions have {basis.shape[-1]} coordinates and the activation {x.shape[-1]}")
    if basis.dtype != x.dtype:
        raise ValueError(f"{edit}: the directions are {basis.dtype} and the activation {x.dtype}: convert one of them")
    basis = basis.to(x.device)
    along: Tensor = x @ basis.mT @ basis
    return along


def _called(x: Tensor, edit: Edit, source: Tensor | None) -> Tensor:
    assert edit.function is not None
    if edit.source is not None and source is None:
        raise ValueError(f"{edit}: this run did not compute {edit.source!r} before: run all layers from there on")
    new = edit.function(x) if source is None else edit.function(x, source)
    if not isinstance(new, Tensor) or new.shape != x.shape or new.dtype != x.dtype:
        given = f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(f"{edit}: the function returned {given}; expected {tuple(x.shape)} {x.dtype}")
    return new
