"""One thing that a command takes: what it is called, what its value may be, and how help shows it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["Option", "make_option", "is_many", "spelling"]

_MAX_USAGE = 30
_SPELLINGS = {"from_model": "from", "from_config": "config"}  # "from" is a word that Python keeps for itself
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_EXPECTED = {int: "a whole number", float: "a number", str: "a text", Path: "a path", NoneType: "None"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that a command takes: a parameter of its function, or a field of a configuration."""

    name: str
    annotation: Any
    default: Any
    is_positional: bool = False
    is_field: bool = False
    is_needed: bool = False
    about: str = ""
    metavar: str = ""
    group: str = "Options"
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return self.metavar if self.is_positional else f"--{spelling(self.name)}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling that is accepted."""
        return (self.flag, f"--no-{self.flag[2:]}") if self.annotation is bool else (self.flag,)

    def usage(self) -> str:
        """Return the spelling that help shows."""
        if self.is_positional:
            is_optional = self.has_default and not self.is_needed
            return f"[{self.metavar}{' ...' if is_many(self.annotation) else ''}]" if is_optional else self.metavar
        if self.annotation is bool:
            return f"--[no-]{self.flag[2:]}" if self.is_field else self.flags[self.default is True]
        return f"{self.flag} {self.metavar}"

    @property
    def has_default(self) -> bool:
        """Whether it may be left out."""
        return self.default is not inspect.Parameter.empty

    @property
    def shown_default(self) -> str:
        """The value that it has when left out, where that says something."""
        match self.default:
            case bool():
                return ("on" if self.default else "off") if self.is_field else ""
            case float():
                return f"{self.default:g}"
            case int() | str() | Path():
                return str(self.default)
        return ""

    def is_set(self, value: Any) -> bool:
        """Return whether a value makes a difference: one that is the default is as good as not given."""
        return self.is_field or bool(value != self.default)

    def expected(self) -> str:
        """Return what its value must be, in words."""
        kinds = _alternatives(self.annotation)
        if not self.is_field:  # None is only how a function says that nothing was given
            kinds = tuple(kind for kind in kinds if kind is not NoneType)
        if is_many(self.annotation):
            kinds = (get_args(kinds[0])[0],)
        return _either([*self.choices, *(_EXPECTED[kind] for kind in kinds if kind in _EXPECTED)])


def spelling(name: str) -> str:
    """Return a name as the command line writes it."""
    return _SPELLINGS.get(name, name).replace("_", "-")


def make_option(
    name: str,
    annotation: Any,
    default: Any,
    metavar: str,
    about: str,
    *,
    parameter: inspect.Parameter | None = None,
    group: str = "",
) -> Option:
    """Return the option that a parameter, or without one a field of a configuration, is."""
    is_positional = parameter is not None and parameter.kind is parameter.POSITIONAL_ONLY
    choices = _choices(annotation)
    if choices and len(f"--{name} {'|'.join(choices)}") <= _MAX_USAGE:
        metavar = "|".join(choices)
    elif choices:  # too long beside the option: said in its text
        metavar, about = metavar or "NAME", f"{_either(choices)}{'; ' if about else ''}{about}"
    if not metavar:
        metavar = name.upper().removesuffix("S") if is_positional else _metavar(annotation)
    return Option(
        name=name,
        annotation=annotation,
        default=default,
        is_positional=is_positional,
        is_field=parameter is None,
        about=about,
        metavar=metavar,
        group="Arguments" if is_positional else group or "Options",
        choices=tuple(choices),
    )


def _metavar(annotation: Any) -> str:
    kinds = [kind for kind in _alternatives(annotation) if kind is not NoneType]
    return _metavar(get_args(kinds[0])[0]) if is_many(annotation) else _METAVARS.get(kinds[0], "VALUE")


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _choices(annotation: Any) -> list[str]:
    kinds = [kind for kind in _alternatives(annotation) if get_origin(kind) is Literal]
    return [str(choice) for kind in kinds for choice in get_args(kind)]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def is_many(annotation: Any) -> bool:
    """Return whether an option may be given several times."""
    return any(get_origin(kind) in (tuple, list) for kind in _alternatives(annotation))
