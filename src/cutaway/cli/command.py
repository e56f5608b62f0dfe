"""A verb's function as a command: its signature gives the options, its docstring the help, tyro reads the arguments."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cached_property
from importlib import import_module
from io import BytesIO, TextIOWrapper
from typing import Annotated, Any, get_type_hints

from cutaway.cli.docstrings import entries_of, field_texts, sections_of
from cutaway.cli.errors import UsageError
from cutaway.cli.option import Option, is_many, make_option, spelling

__all__ = ["Verb", "Command", "load_command", "options_of", "excludes", "needs_one_of", "before_dashes"]

Verb = Callable[..., None]
"""A function that does what a verb says and prints the result."""

_NUMBER = re.compile(r"-\.?\d")


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """A configuration whose fields are options."""

    config: type
    group: str
    omit: Collection[str]
    metavars: Mapping[str, str]
    defaults: Callable[[Sequence[str]], tuple[str, Any]]


def options_of(
    config: type,
    *,
    group: str,
    defaults: Callable[[Sequence[str]], tuple[str, Any]],
    omit: Collection[str] = (),
    metavars: Mapping[str, str] | None = None,
) -> Callable[[Verb], Verb]:
    """Let a verb take a configuration's fields as options: those given on the command line arrive in its `**changes`.

    Their help is the text under each field in the class; `group` heads them there, and `metavars` names the values of some.
    `defaults` returns, for the command line that asks for help, which preset holds for what is not given, and its configuration.
    """

    def decorate(function: Verb) -> Verb:
        taken = _Fields(config=config, group=group, omit=omit, metavars=metavars or {}, defaults=defaults)
        function.takes_fields_of = (taken, *getattr(function, "takes_fields_of", ()))  # type: ignore[attr-defined]
        return function

    return decorate


def excludes(name: str, *others: str, why: str, values: Collection[Any] | None = None) -> Callable[[Verb], Verb]:
    """Let a verb refuse an option, or some of its `values`, together with any of the others, which it would pass over, and say why."""

    def decorate(function: Verb) -> Verb:
        function.exclusions = ((name, others, why, values), *getattr(function, "exclusions", ()))  # type: ignore[attr-defined]
        return function

    return decorate


def needs_one_of(*names: str | tuple[str, ...]) -> Callable[[Verb], Verb]:
    """Let a verb need one of these options, which the menu asks for, or several that go together, the first of which stands for all."""
    ways = tuple((name,) if isinstance(name, str) else name for name in names)

    def decorate(function: Verb) -> Verb:
        function.needs_one_of = (ways, *getattr(function, "needs_one_of", ()))  # type: ignore[attr-defined]
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
        object.__setattr__(self, "sections", sections_of(inspect.getdoc(self.function) or ""))

    @cached_property
    def options(self) -> list[Option]:
        """Everything that the command takes, arguments first."""
        about, needed = entries_of(self.sections.get("Args", "")), getattr(self.function, "needs", ())
        hints = get_type_hints(self.function)
        options = [
            replace(
                make_option(name, hints[name], parameter.default, *about.get(name, ("", "")), parameter=parameter),
                is_needed=name in needed,
            )
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        for taken in self._fields:
            hints, texts = get_type_hints(taken.config), field_texts(taken.config)
            options += [
                make_option(
                    each.name,
                    hints[each.name],
                    False if hints[each.name] is bool else inspect.Parameter.empty,
                    taken.metavars.get(each.name, ""),
                    texts.get(each.name, ""),
                    group=taken.group,
                )
                for each in fields(taken.config)
                if each.name not in taken.omit
            ]
        return options

    def options_with_defaults(self, arguments: Sequence[str]) -> list[Option]:
        """Return the options with what holds where none is given, after the preset that the arguments name."""
        options = [option for option in self.options if not option.is_field]
        for taken in self._fields:
            preset, values = taken.defaults(arguments)
            group = f"{taken.group}, with the defaults of {preset}"
            options += [
                replace(option, default=getattr(values, option.name), group=group)
                for option in self.options
                if option.is_field and option.group == taken.group
            ]
        return options

    @property
    def _fields(self) -> tuple[_Fields, ...]:
        return getattr(self.function, "takes_fields_of", ())

    def __call__(self, arguments: Sequence[str]) -> None:
        """Read the arguments and call the function; raises UsageError for arguments that it does not take."""
        positional, keywords = self.parse(arguments)
        self.function(*positional, **keywords)

    def parse(self, arguments: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the function is to be called with; fields of a configuration only where they are given."""
        import tyro

        flags = [argument for argument in before_dashes(arguments) if argument.startswith("--")]
        given = {flag.partition("=")[0].replace("_", "-") for flag in flags}
        taken = [option for option in self.options if not option.is_field or not given.isdisjoint(option.flags)]
        self._refuse_values(flags)
        values: Any
        said = TextIOWrapper(BytesIO(), encoding="utf-8")  # tyro draws its box in the encoding of the stream
        try:
            with redirect_stderr(said), redirect_stdout(said):
                values, unknown = tyro.cli(
                    _arguments(taken),
                    args=arguments,
                    prog=f"cutaway {self.name}",
                    return_unknown_args=True,
                    add_help=False,
                )
        except SystemExit:
            said.seek(0)
            raise UsageError(f"{self._complaint(_plain(said.read()), arguments)}; {self._see}") from None
        if unknown:
            raise UsageError(self._unknown(unknown))
        self._refuse_together(taken, values)
        positional = tuple(getattr(values, option.name) for option in taken if option.is_positional)
        keywords = {option.name: getattr(values, option.name) for option in taken if not option.is_positional}
        return positional, keywords

    @property
    def _see(self) -> str:
        return f"see `cutaway {self.name} --help`"

    def _refuse_values(self, flags: Sequence[str]) -> None:
        """Raise UsageError for `--json=yes`, which tyro would read as `--json` and an argument."""
        switches = {"--help"}.union(*(option.flags for option in self.options if option.annotation is bool))
        for flag in flags:
            name, sign, _ = flag.partition("=")
            if sign and name.replace("_", "-") in switches:
                raise UsageError(f"{name} takes no value; {self._see}")

    def _refuse_together(self, taken: Sequence[Option], values: Any) -> None:
        flags = {option.name: option.flag for option in taken}
        given = [option.name for option in taken if option.is_set(getattr(values, option.name))]
        for name, others, why, refused in getattr(self.function, "exclusions", ()):
            present = [flags[other] for other in others if other in given]
            if present and (name in given if refused is None else getattr(values, name) in refused):
                shown = flags[name] if refused is None else f"{flags[name]} {getattr(values, name)}"
                raise UsageError(f"{shown} and {present[0]} do not go together: {why}")

    def _complaint(self, said: str, arguments: Sequence[str]) -> str:
        """Return in the command's own words what tyro says about a value: what was given, and what is expected."""
        for option in self.options:
            if re.search(rf"'{option.name}'" if option.is_positional else rf"(?<!\S)'?{option.flag}(?![\w-])", said):
                value = _value_of(option, said, arguments)
                name = "the argument" if option.is_positional else option.flag
                what = f"{name} lacks its value" if value is None else f"{name} is {value!r}"
                return f"{what}; expected {option.expected()}"
        return said

    def _unknown(self, unknown: Sequence[str]) -> str:
        wrong = next((each for each in unknown if each.startswith("-") and not _NUMBER.match(each)), None)
        if wrong is None and any(option.is_positional and is_many(option.annotation) for option in self.options):
            return f"{unknown[0]!r} stands apart from the other arguments: put it beside them, before the options; {self._see}"
        if wrong is None:
            return f"`cutaway {self.name}` has no use for {unknown[0]!r}; {self._see}"
        wrong = wrong.partition("=")[0]
        known = [flag for option in self.options if not option.is_positional for flag in option.flags]
        near = difflib.get_close_matches(wrong.replace("_", "-"), [*known, "--help"], n=1)
        return f"`cutaway {self.name}` has no option {wrong}; {f'did you mean {near[0]}? ' if near else ''}{self._see}"


def load_command(*names: str) -> Command:
    """Return the command of a verb, or of a verb's own verb: `interpret patch` is the function patch of cutaway.cli.interpret.patch."""
    parts = [name.replace("-", "_") for name in names]
    return Command(" ".join(names), getattr(import_module(f"cutaway.cli.{'.'.join(parts)}"), parts[-1]))


def before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments up to a bare `--`, after which nothing is an option."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _arguments(options: Sequence[Option]) -> type:
    """Return a class with a field for each option, which tyro can fill."""
    import tyro

    positional: Any = tyro.conf.Positional
    repeated: Any = tyro.conf.UseAppendAction
    return make_dataclass(
        "Arguments",
        [
            (
                option.name,
                positional[option.annotation]
                if option.is_positional
                else repeated[option.annotation]
                if is_many(option.annotation)
                else Annotated[option.annotation, tyro.conf.arg(name=spelling(option.name))],
                field(default=option.default) if option.has_default else field(),
            )
            for option in options
        ],
        kw_only=True,
    )


def _value_of(option: Option, said: str, arguments: Sequence[str]) -> str | None:
    """Return the value that was given for an option last, None where it has none."""
    if option.is_positional:
        match = re.search(r"invalid choice '(.*?)'", said)
        return match[1] if match else None
    for place in reversed(range(len(arguments))):
        name, sign, value = arguments[place].partition("=")
        if name.replace("_", "-") == option.flag:
            after = value if sign else next(iter(arguments[place + 1 :]), None)
            return None if after is None or after.startswith("--") else after
    return None


def _plain(said: str) -> str:
    """Return in one line what tyro says in a box: its text up to the rule that closes the complaint."""
    inside = [line.strip("│| ") for line in said.splitlines() if line.startswith(("│", "|"))]
    until = next((place for place, line in enumerate(inside) if line and set(line) <= set("─-")), len(inside))
    return " ".join(inside[:until]).rstrip(".") or "the arguments cannot be understood"
