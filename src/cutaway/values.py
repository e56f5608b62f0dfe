"""Values as people and files give them: held against what is expected, and shown in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_names", "check_types", "look_up", "size_or"]

_Kept = TypeVar("_Kept")

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", NoneType: "None"}


def check_names(values: Mapping[str, Any], record: type[DataclassInstance], what: str) -> None:
    """Raise ValueError for values to make a dataclass of that have a field too many, or lack one; `what` is said of its fields."""
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(record)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"unknown {what} field(s) {', '.join(unknown)}; the fields are {', '.join(sorted(known))}")
    if missing := [name for name, is_required in known.items() if is_required and name not in values]:
        raise ValueError(f"missing {what} field(s) {', '.join(missing)}")


def check_types(record: DataclassInstance) -> None:
    """Raise ValueError for a field of a dataclass whose value is not what the field is annotated to be.

    A default of None may always be given. A whole number is a number too, and no boolean is either.
    """
    kinds = _kinds(type(record))
    for field in dataclasses.fields(record):
        value, kind = getattr(record, field.name), kinds[field.name]
        if not _is(value, kind) and not (value is None and field.default is None):
            raise ValueError(f"{field.name} is {value!r}; expected {_in_words(kind)}")


def look_up(table: Mapping[Any, _Kept], given: object, what: str) -> _Kept:
    """Return what a table has under the name given; raises ValueError, which calls the name `what`, for one that it has not."""
    if given not in table:
        raise ValueError(f"{what} is {given!r}; expected {_one_of(table)}")
    return table[given]


def size_or(otherwise: int, given: int | None, what: str) -> int:
    """Return the size given, or `otherwise` where there is none; raises ValueError, which calls it `what`, for less than 1."""
    if given is not None and given < 1:
        raise ValueError(f"{what} is {given}; expected a whole number of at least 1")
    return otherwise if given is None else given


@cache
def _kinds(record: type[DataclassInstance]) -> dict[str, Any]:
    return get_type_hints(record)


def _is(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin is tuple:  # of any length
        return isinstance(value, tuple) and all(_is(each, parts[0]) for each in value)
    if parts:
        return any(_is(value, part) for part in parts)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _in_words(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return _one_of(parts)
    if get_origin(kind) is tuple:
        return "a list of texts"
    return " or ".join(map(_in_words, parts)) or _WORDS.get(kind) or f"a {kind.__name__}"


def _one_of(names: Any) -> str:
    return f"one of {', '.join(map(str, names))}"
