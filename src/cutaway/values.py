"""Values as people and files give them: read, held against what is expected, shown in a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_names", "check_types", "look_up", "read_object", "said_of_json", "shortened", "size_or"]

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
            raise ValueError(f"{field.name} is {shortened(value)}; expected {_in_words(kind)}")


def look_up(table: Mapping[Any, _Kept], given: object, what: str) -> _Kept:
    """Return what a table has under the name given; raises ValueError, which calls the name `what`, for one that it has not."""
    if given not in table:
        raise ValueError(f"{what} is {shortened(given)}; expected {_one_of(table)}")
    return table[given]


def size_or(otherwise: int, given: int | None, what: str) -> int:
    """Return the size given, or `otherwise` where there is none; raises ValueError, which calls it `what`, for less than 1."""
    if given is not None and given < 1:
        raise ValueError(f"{what} is {given}; expected a whole number of at least 1")
    return otherwise if given is None else given


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises FileNotFoundError for a file that is not there, ValueError for one that is not JSON in UTF-8, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: bring it back") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8 ({error}), so it was changed or damaged: get it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {shortened(values)}; expected a JSON object")  # noqa: TRY004 (data)
    return values


def said_of_json(error: Exception) -> str:
    """Return in a clause why a file's JSON cannot be read: our own words, where an error has a library's."""
    match error:
        case json.JSONDecodeError():
            return f"it is no JSON (line {error.lineno})"
        case UnicodeDecodeError():
            return "it is no UTF-8 text"
        case KeyError():
            return f"it lacks {error}"
        case TypeError() | AttributeError():
            return "it is JSON, but not of the shape that is written here"
        case _:
            return str(error)


def shortened(value: object) -> str:
    """Return a value as a sentence shows it: in one line, and the beginning alone of a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


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
