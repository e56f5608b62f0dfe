"""What the verbs of `cutaway interpret` share: a model, a text that is asked for, a worked example, and where results go."""

from __future__ import annotations

import inspect
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from rich.text import Text

from cutaway.assets.shipped import shipped_example
from cutaway.cli.docstrings import sections_of
from cutaway.cli.errors import UsageError, report_warning
from cutaway.cli.interpret.present import present
from cutaway.cli.interpret.prompt_files import read_prompt_file
from cutaway.cli.loading import load_named
from cutaway.cli.pages import check_page
from cutaway.report import stderr_console

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["Analysis", "analysis", "one_or_each", "spell_option"]

_DEMO_MODEL = "smollm2-135m"
_NAMED = "; what was given names this model: say where it is now, as MODEL"
_LATEST = "the latest run"
_SECTIONS = ("Args", "Examples", "In Python")


class Analysis:
    """A verb made of a function from a language model and options to a `Result`; what all such verbs take is added here.

    The function's first parameter is the model, its others are options, those before a `/` arguments: one without a default is needed,
    and one of these that is called `text` is asked for on a terminal; `source` is no option and gets what the model was called. One
    that is a dataclass is made of its fields, which are options with their help in the Args of its docstring. `demo` has a value for
    everything that is needed, and for whatever else the worked example wants, `model` too where it is not SmolLM2. `source_of` names a
    model by the options where none is given, and `source_said` is what the help calls that. With `lines`, a word for some of the
    options, these may be read from a file of prompts instead, one object a line.
    """

    def __init__(
        self,
        analyse: Callable[..., Result],
        demo: Mapping[str, Any],
        *,
        lines: Mapping[str, str] | None = None,
        source_of: Callable[[Mapping[str, Any]], str | None] | None = None,
        source_said: str = _LATEST,
    ) -> None:
        update_wrapper(self, analyse)
        own = [each for each in list(inspect.signature(analyse).parameters.values())[1:] if each.name != "source"]
        self._values = {each.name: kind for each in own if (kind := _value_kind(each, analyse)) is not None}
        own = [option for each in own for option in (_fields(self._values[each.name]) if each.name in self._values else [each])]
        self._lines = dict(lines or {})
        shared = list(inspect.signature(self.run).parameters.values())[:-1]
        self.demo = dict(demo)
        self.needs = tuple(each.name for each in own if each.default is each.empty)
        self._analyse, self._source_of = analyse, source_of
        self._takes_source = "source" in inspect.signature(analyse).parameters
        self._arguments = tuple(each.name for each in own if each.kind is each.POSITIONAL_ONLY)
        self._repeated = {each.name for each in own if str(each.annotation).startswith("tuple[")}
        nothing = {name: () if name in self._repeated else None for name in self.needs}
        self._defaults = {each.name: nothing.get(each.name, each.default) for each in own}
        arguments = [each.replace(default=self._defaults[each.name]) for each in own if each.name in self._arguments]
        if self._lines:
            self._defaults["prompts"] = None
            own.append(inspect.Parameter("prompts", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Path | None))
        options = [
            each.replace(kind=each.KEYWORD_ONLY, default=self._defaults[each.name])
            for each in own
            if each.name not in self._arguments
        ]
        self.__signature__ = inspect.Signature([*arguments, shared[0], *options, *shared[1:]])
        alone = {*self.needs} - self._repeated
        hints = {each.name: _or_none(each.annotation) if each.name in alone else each.annotation for each in own}
        self.__annotations__ = hints | get_type_hints(Analysis.run)
        of_values = [sections_of(inspect.getdoc(kind) or "")["Args"] for kind in self._values.values()]
        more = [*of_values, *([_file_said(self._lines)] if self._lines else [])]
        self.__doc__ = _joined(inspect.getdoc(analyse) or "", (inspect.getdoc(self.run) or "").replace(_LATEST, source_said), more)
        if absent := {*self.needs} - self.demo.keys():
            raise TypeError(f"the worked example of {analyse.__name__} lacks {', '.join(sorted(absent))}")

    def __call__(self, *positional: Any, **keywords: Any) -> None:
        """Run the verb with what the command line gave."""
        n = len(self._arguments)
        self.run(*positional[n:], **dict(zip(self._arguments, positional, strict=False)), **keywords)

    def run(
        self,
        model: str | None = None,
        /,
        *,
        tokenizer: str | None = None,
        config: Path | None = None,
        device: str | None = None,
        demo: bool = False,
        report: Path | None = None,
        json: bool = False,
        **options: Any,
    ) -> None:
        """Load the model, run the analysis, and show, print or write what it found.

        Args:
            model: a run, a checkpoint, a catalogue name, a folder or a file; the latest run unless given
            tokenizer NAME: gpt2, cl100k or a tokenizer.json, for a model that came without one
            config FILE: the shape of a TransformerLens state, which does not hold it: a config.json of cutaway's
            device NAME: auto, cpu, cuda or mps
            demo: a worked example, on SmolLM2 unless a model is given
            report FILE: write a page of it with figures, one self-contained HTML file
            json: print JSON
        """
        check_page(report)
        options = self._filled(model, options, demo=demo)
        file = options.pop("prompts", None) if self._lines else None
        if file is not None:
            options |= self._read(file, options)
        named = self._source_of(options) if self._source_of else None  # first, as a file that is not there is the worse trouble
        self._check_ways(options)
        missing = [name for name in self.needs if options[name] in (None, ())]
        is_asked = missing == ["text"] and sys.stdin.isatty() and sys.stdout.isatty()
        if missing and not is_asked:
            raise UsageError(f"{' and '.join(map(self._spelled, missing))} {_lacking(missing)}, or --demo for a worked example")
        if is_asked and (report is not None or json):
            raise UsageError(f"{'--json' if json else '--report'} shows one text: give it with --text")
        given = {name: value for name, value in options.items() if value != self._defaults[name]}
        values = {name: kind(**{each.name: options.pop(each.name) for each in fields(kind)}) for name, kind in self._values.items()}
        source = model or named or (self._own_model() if demo else _latest())
        if file is not None:
            given = {name: value for name, value in given.items() if name not in self._lines} | {"prompts": file}
        loaded: dict[str, Any] = {"tokenizer": tokenizer, "config": config, "device": device}
        command = self._spelling(source, given | {name: value for name, value in loaded.items() if value is not None})
        if demo:
            stderr_console().print(Text(f"$ {command}\n", style="dim"), soft_wrap=True)
        from cutaway.ranks import shared_work

        with shared_work(device or "auto") as ranks:
            with _saying_who_named(is_given=model is not None or source != named):
                lm = load_named(source, **loaded)
            if is_asked:
                self._answer(lm, source, options)
                return
            arguments = [options.pop(name) for name in self._arguments]
            result = self._analyse(lm, *arguments, **options, **values, **({"source": source} if self._takes_source else {}))
            if not demo:
                _head(source, is_named=model is not None)
            if ranks.is_first:
                present(result, json=json, report=report, command=command)

    def _filled(self, model: str | None, options: Mapping[str, Any], *, demo: bool) -> dict[str, Any]:
        """Return the options with what is not given: that of the worked example, or the text of a model of the package."""
        example = shipped_example(model).get("prompt") if "text" in self.needs else None
        if demo and example:
            raise UsageError(f"{model} has an example of its own, {example!r}: leave out --demo, which is another model's")
        own = {"text": (example,) if "text" in self._repeated else example} if example else {}
        values: Mapping[str, Any] = self.demo if demo else own
        return {name: values.get(name, value) if value == self._defaults[name] else value for name, value in options.items()}

    def _check_ways(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError where none of the options is given of which one is needed."""
        for ways in getattr(self, "needs_one_of", ()):
            names = [first for first, *_ in ways]
            if all(options[name] == self._defaults[name] for name in names):
                one = "it" if len(names) == 1 else "one of them"
                raise UsageError(f"{' or '.join(map(_flag, names))} is missing: give {one}, or --demo for a worked example")

    def _read(self, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that a file of prompts gives; raises UsageError for one that is given besides."""
        if beside := [name for name in self._lines if options[name] != self._defaults[name]]:
            raise UsageError(f"--prompts and {_flag(beside[0])} do not go together: the file has the prompts")
        return {name: value for name, value in read_prompt_file(file, self._lines).items() if value}

    def _answer(self, lm: LanguageModel, source: str, options: Mapping[str, Any]) -> None:
        """Show the analysis of each text that is typed."""
        _head(source, is_named=True)
        for text in _asked():
            try:
                result = self._analyse(lm, **{**options, "text": (text,) if "text" in self._repeated else text})
                present(result)
            except ValueError as error:  # one text that cannot be read does not end the session
                report_warning(str(error))

    def _own_model(self) -> str:
        return str(self.demo.get("model", _DEMO_MODEL))

    def _spelled(self, name: str) -> str:
        return name.upper() if name in self._arguments else _flag(name)

    def _spelling(self, source: str, given: Mapping[str, Any]) -> str:
        """Return the command that does the same."""
        path = self.__module__.removeprefix("cutaway.cli.").replace("_", "-").split(".")  # interpret, NAME
        words = ["cutaway", *path, *(str(given[name]) for name in self._arguments if name in given), source]
        for name, value in given.items():
            if name in self._arguments:
                continue
            match value:
                case bool():
                    words.append(_flag(name) if value else f"--no-{_flag(name)[2:]}")
                case list() | tuple():
                    words += [word for each in value for word in spell_option(_flag(name), str(each))]
                case _:
                    words += spell_option(_flag(name), str(value))
        return shlex.join(words)


def analysis(
    lines: Mapping[str, str] | None = None,
    /,
    *,
    source_of: Callable[[Mapping[str, Any]], str | None] | None = None,
    source_said: str = _LATEST,
    **demo: Any,
) -> Callable[[Callable[..., Result]], Analysis]:
    """Make a verb of a function from a language model and options to a `Result`; `demo` are the options of its worked example.

    `lines` are the words of a file of prompts, by the option that each is.

    @analysis(text="The capital of France is", layer=9)
    def attention(lm: LanguageModel, *, text: str, layer: int = 0) -> Result: ...
    """
    return lambda analyse: Analysis(analyse, demo, lines=lines, source_of=source_of, source_said=source_said)


def spell_option(flag: str, value: str) -> list[str]:
    """Return an option as the command line takes it, also where its value looks like an option."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _or_none(annotation: Any) -> Any:
    return f"{annotation} | None" if isinstance(annotation, str) else annotation | None


def one_or_each(values: Sequence[str]) -> str | Sequence[str] | None:
    """Return what was given once for all rows, what was given for each, or None for nothing."""
    return None if not values else values[0] if len(values) == 1 else list(values)


def _file_said(lines: Mapping[str, str]) -> str:
    """Return the help of the file of prompts."""
    *others, last = lines.values()
    return f"prompts FILE: many of them from a file, one JSON object a line, with {', '.join(others)} and {last}"


def _value_kind(parameter: inspect.Parameter, function: Callable[..., Result]) -> Any:
    """Return the dataclass that a parameter is a value of, None for one of any other kind."""
    named = parameter.annotation
    kind = inspect.unwrap(function).__globals__.get(named) if isinstance(named, str) else named
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def _fields(kind: Any) -> list[inspect.Parameter]:
    """Return the fields of a dataclass as parameters."""
    hints = get_type_hints(kind)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(kind)
    ]


def _joined(own: str, shared: str, more: Sequence[str]) -> str:
    """Return a verb's docstring with the options that it shares at the end of its own."""
    sections = sections_of(own)
    sections["Args"] = "\n".join(filter(None, (sections.get("Args", ""), *more, sections_of(shared)["Args"]))).strip("\n")
    parts = [f"{head}:\n{textwrap.indent(sections[head], '    ')}" for head in _SECTIONS if head in sections]
    return "\n\n".join([sections[""], *parts])


@contextmanager
def _saying_who_named(*, is_given: bool) -> Iterator[None]:
    """Add to the sentence that a model is not there that a file names it, unless it was given."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{'' if is_given else _NAMED}") from None


def _asked() -> Iterator[str]:
    """Yield what is typed, a text a line, until an empty line or the end of the input."""
    stderr_console().print(Text("A text a line; an empty one ends.\n", style="dim"))
    while True:
        try:
            text = input("text> ")
        except EOFError:
            print()
            return
        if not text:
            return
        yield text
        print()


def _head(source: str, *, is_named: bool) -> None:
    """Print the name of the model above what is said of it, on standard error; a pipe is told where nobody named it, in a line."""
    console = stderr_console()
    if console.is_terminal:
        console.print(Text(f"{source}\n", style="dim"), soft_wrap=True)
    elif not is_named:
        console.print(Text(f"The model is {source}."), soft_wrap=True)


def _latest() -> str:
    from cutaway.runs import latest_run

    try:
        return str(latest_run().path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; `{_DEMO_MODEL}` is a pretrained one") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _lacking(missing: Sequence[str]) -> str:
    return "is missing: give it" if len(missing) == 1 else "are missing: give them"
