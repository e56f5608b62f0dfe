"""A verb's function as a command: its signature gives the options, its docstring the help, tyro reads the arguments."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cached_property
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cutaway.cli.errors import UsageError

__all__ = ["Verb", "Command", "Option", "options_of"]

Verb = Callable[..., None]
"""A function that does what a verb says and prints the result."""

_SECTION = re.compile(r"(Args|Examples|In Python):")
_ENTRY = re.compile(r"(\w+)(?: ([^:]+))?: (.*)")
_NUMBER = re.compile(r"-\.?\d")
_MAX_CHOICES = 20
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that a command takes: a parameter of its function, or a field of a configuration."""

    name: str
    annotation: Any
    default: Any
    is_positional: bool = False
    is_field: bool = False
    about: str = ""
    metavar: str = ""
    group: str = "Options"

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return self.metavar if self.is_positional else f"--{self.name.replace('_', '-')}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling that is accepted."""
        return (self.flag, f"--no-{self.flag[2:]}") if self.annotation is bool else (self.flag,)

    def usage(self) -> str:
        """Return the spelling that help shows."""
        if self.is_positional:
            return f"[{self.metavar}{' ...' if _is_many(self.annotation) else ''}]" if self.has_default else self.metavar
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
        is_telling = isinstance(self.default, int | float | str | Path) and not isinstance(self.default, bool)
        return str(self.default) if is_telling and not self.is_field else ""


def options_of(config: type, *, group: str, omit: Sequence[str] = ()) -> Callable[[Verb], Verb]:
    """Let a verb take a configuration's fields as options: those given on the command line arrive in its `**changes`.

    Their help is the text under each field in the class; `group` heads them there.
    """

    def decorate(function: Verb) -> Verb:
        before: tuple[Any, ...] = getattr(function, "takes_fields_of", ())
        function.takes_fields_of = ((config, group, frozenset(omit)), *before)  # type: ignore[attr-defined]
        return function

    return decorate


@dataclass(frozen=True)
class Command:
    """The command that calls `function`: parameters before a `/` are its arguments, keyword-only ones its options.

    The docstring's text describes it; `Args:`, `Examples:` and `In Python:` are its sections. An entry of Args may name the value after
    the parameter: `out FOLDER: where the run goes`.
    """

    name: str
    function: Verb
    sections: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sections", _sections(inspect.getdoc(self.function) or ""))

    @cached_property
    def options(self) -> list[Option]:
        """Everything that the command takes, arguments first."""
        about = _entries(self.sections.get("Args", ""))
        hints = get_type_hints(self.function)
        options = [
            _option(name, hints[name], parameter.default, *about.get(name, ("", "")), parameter=parameter)
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        for config, group, omit in getattr(self.function, "takes_fields_of", ()):
            hints, texts = get_type_hints(config), _field_texts(config)
            options += [
                _option(each.name, hints[each.name], None, "", texts.get(each.name, ""), group=group)
                for each in fields(config)
                if each.name not in omit
            ]
        return options

    def __call__(self, arguments: Sequence[str]) -> None:
        """Read the arguments and call the function; raises UsageError for arguments that it does not take."""
        positional, keywords = self.parse(arguments)
        self.function(*positional, **keywords)

    def parse(self, arguments: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the function is to be called with; fields of a configuration only where they are given."""
        import tyro

        values: Any
        said = TextIOWrapper(BytesIO(), encoding="utf-8")  # tyro draws its box in the encoding of the stream
        try:
            with redirect_stderr(said), redirect_stdout(said):
                values, unknown = tyro.cli(
                    self._arguments(),
                    args=arguments,
                    prog=f"cutaway {self.name}",
                    return_unknown_args=True,
                    add_help=False,
                )
        except SystemExit:
            said.seek(0)
            raise UsageError(f"{_plain(said.read())}; see `cutaway {self.name} --help`") from None
        if unknown:
            raise UsageError(self._unknown(unknown))
        given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
        positional = tuple(getattr(values, option.name) for option in self.options if option.is_positional)
        keywords = {
            option.name: getattr(values, option.name)
            for option in self.options
            if not option.is_positional and not (option.is_field and given.isdisjoint(option.flags))
        }
        return positional, keywords

    def _arguments(self) -> type:
        """Return a class with a field for everything that the command takes, which tyro can fill."""
        import tyro

        positional: Any = tyro.conf.Positional
        return make_dataclass(
            "Arguments",
            [
                (
                    option.name,
                    positional[option.annotation] if option.is_positional else option.annotation,
                    field(default=option.default) if option.has_default else field(),
                )
                for option in self.options
            ],
            kw_only=True,
        )

    def _unknown(self, unknown: Sequence[str]) -> str:
        see = f"see `cutaway {self.name} --help`"
        wrong = next((each for each in unknown if each.startswith("-") and not _NUMBER.match(each)), None)
        if wrong is None:
            return f"`cutaway {self.name}` has no use for {unknown[0]!r}; {see}"
        wrong = wrong.partition("=")[0]
        known = [flag for option in self.options if not option.is_positional for flag in option.flags]
        near = difflib.get_close_matches(wrong.replace("_", "-"), known, n=1)
        return f"`cutaway {self.name}` has no option {wrong}; {f'did you mean {near[0]}? ' if near else ''}{see}"


def _option(
    name: str,
    annotation: Any,
    default: Any,
    metavar: str,
    about: str,
    *,
    parameter: inspect.Parameter | None = None,
    group: str = "",
) -> Option:
    is_positional = parameter is not None and parameter.kind is parameter.POSITIONAL_ONLY
    is_field = parameter is None
    if is_field and annotation is bool:
        default = False
    elif is_field:
        annotation = annotation | None
    choices = _choices(annotation)
    if choices and len("|".join(choices)) > _MAX_CHOICES:  # too long beside the option: said in its text
        metavar, about = metavar or "NAME", f"{', '.join(choices)}{'; ' if about else ''}{about}"
    if not metavar:
        metavar = name.upper().removesuffix("S") if is_positional else _metavar(annotation)
    return Option(
        name=name,
        annotation=annotation,
        default=default,
        is_positional=is_positional,
        is_field=is_field,
        about=about,
        metavar=metavar,
        group="Arguments" if is_positional else group or "Options",
    )


def _metavar(annotation: Any) -> str:
    kinds = [kind for kind in _alternatives(annotation) if kind is not NoneType]
    if choices := _choices(annotation):
        return "|".join(choices)
    if _is_many(annotation):
        return f"{_metavar(get_args(kinds[0])[0])} ..."
    return _METAVARS.get(kinds[0], "VALUE")


def _choices(annotation: Any) -> list[str]:
    kinds = [kind for kind in _alternatives(annotation) if get_origin(kind) is Literal]
    return [str(choice) for kind in kinds for choice in get_args(kind)]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_many(annotation: Any) -> bool:
    return any(get_origin(kind) in (tuple, list) for kind in _alternatives(annotation))


def _sections(text: str) -> dict[str, str]:
    """Return a docstring's sections by their heads; what stands before the first is under the empty head."""
    sections: dict[str, list[str]] = {"": []}
    head = ""
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            head = match[1]
            sections[head] = []
        else:
            sections[head].append(line)
    return {head: textwrap.dedent("\n".join(lines)).strip("\n") for head, lines in sections.items()}


def _entries(text: str) -> dict[str, tuple[str, str]]:
    """Return the name of the value and the text of each entry of Args."""
    entries: dict[str, tuple[str, str]] = {}
    name = ""
    for line in text.splitlines():
        if match := _ENTRY.fullmatch(line):
            name, metavar, about = match[1], match[2] or "", match[3]
            entries[name] = metavar, about
        elif name:
            metavar, about = entries[name]
            entries[name] = metavar, f"{about} {line.strip()}".rstrip()
    return entries


def _field_texts(config: type) -> dict[str, str]:
    """Return the text that stands under each field of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    texts = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = text.rstrip(".")
    return texts


def _plain(said: str) -> str:
    """Return in one line what tyro says in a box: its text up to the rule that closes the complaint."""
    inside = [line.strip("│| ") for line in said.splitlines() if line.startswith(("│", "|"))]
    until = next((place for place, line in enumerate(inside) if line and set(line) <= set("─-")), len(inside))
    return " ".join(inside[:until]).rstrip(".") or "the arguments cannot be understood"
