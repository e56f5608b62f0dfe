"""`cutaway generate`: text from a run, a pretrained model, or random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cutaway.assets.shipped import shipped_example
from cutaway.cli.command import excludes, options_of
from cutaway.cli.edit_files import read_edits
from cutaway.cli.errors import UsageError, report_warning
from cutaway.cli.loading import load_named
from cutaway.generation.sampling import SAMPLING_PRESETS, Sampling
from cutaway.report import is_unicode, print_json, stderr_console, stdout_console, table

if TYPE_CHECKING:
    from cutaway.interp.edits import Edit
    from cutaway.language_model import LanguageModel

__all__ = ["generate"]

_SAMPLING = tuple(field.name for field in fields(Sampling))
_OFFERED = "smollm2-135m"
_OFFERED_SIZE = "93 MB to fetch, 636 MB of disk once unpacked"
_COLUMN = 70  # of a terminal's columns for a strategy and its text
_COMPARED_TOKENS = 60  # twelve texts of so many fit on a screen or two


def _preset(arguments: Sequence[str]) -> tuple[str, Sampling]:
    """Return the sampling preset that the arguments name, and its name."""
    name = next((argument for argument in arguments if argument in SAMPLING_PRESETS), "balanced")
    return name, SAMPLING_PRESETS[name]


@excludes("edit", "chat", "interactive", "compare", "compile", why="a prompt is continued under edits, and shown when it is done")
@excludes("random", "model", "tokenizer", "config", "chat", why="one has untrained weights, the other trained ones")
@excludes("chat", "compare", "num_beams", "length_penalty", why="a conversation is answered as it comes")
@excludes("chat", "json", why="the answer is shown as it comes")
@excludes("json", "interactive", why="what is typed is answered as it comes; give the prompts as arguments instead")
@excludes(
    "interactive",
    "prompts",
    "compare",
    "num_beams",
    "length_penalty",
    why="prompts are asked for, and each is answered as it comes",
)
@excludes("compare", "preset", "num_beams", "length_penalty", *_SAMPLING, why="it goes through all the strategies, each on its own")
@excludes("num_beams", "preset", "seed", "compile", *_SAMPLING, why="beam search draws nothing, and runs uncompiled")
@options_of(Sampling, group="Sampling", defaults=_preset)
def generate(
    prompts: tuple[str, ...] = (),
    /,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    config: Path | None = None,
    random: str | None = None,
    max_new_tokens: int | None = None,
    preset: str = "balanced",
    num_beams: int = 1,
    length_penalty: float = 1.0,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    compare: bool = False,
    interactive: bool = False,
    chat: bool = False,
    compile: bool = False,
    edit: Path | None = None,
    edit_prompt: bool = True,
    device: str | None = None,
    json: bool = False,
    **sampling: Any,
) -> None:
    """Continue a prompt, shown as it comes, or several prompts together.

    Without --model the latest run goes on; where there is none yet, SmolLM2 is offered. The same seed gives the same text. The values
    of a sampling preset hold for what is not given below.

    Args:
        prompts: what to go on from; unless given, a new line, or an example that a model of the package comes with
        model: a run, a checkpoint, a catalogue name (smollm2-135m), a Hugging Face folder, a .gguf
        tokenizer NAME: gpt2, cl100k or a tokenizer.json, for a model that came without one
        config FILE: the shape of a TransformerLens state, which does not hold it: a config.json of cutaway's
        random SIZE: untrained weights of a model size, such as gpt2, to see what training changes
        max_new_tokens: how many tokens to add at most (default 200; 60 with --compare)
        preset NAME: the sampling preset: precise, balanced or creative
        num_beams: above 1, search for the likeliest text instead of drawing one
        length_penalty: above 1, beam search prefers longer texts
        stop TEXT: end before this text; may be given several times
        seed: which of the possible texts to draw
        compare: one prompt under every strategy and several temperatures
        interactive: ask for prompts until an empty line
        chat: take the prompt as a message to a model trained on conversations; above its answer stands, dimmed, all that it
            reads, special tokens too
        compile: compile the decoding step first; pays for long texts of large models; one prompt
        edit FILE: edits of the model's activations to generate under, a JSON list of what Edit.to_dict returns
        edit_prompt: with --edit, whether the prompt is read under the edits too
        device NAME: auto, cpu, cuda or mps
        json: print JSON

    Examples:
        cutaway generate "ROMEO:" --preset creative --seed 1
        cutaway generate "ROMEO:" --compare
        cutaway generate "ROMEO:" --stop "JULIET:"
        cutaway generate "Hello" --random gpt2
        cutaway generate "ROMEO:" --edit no-head-6.json --no-edit-prompt
        cutaway generate "Why?" --chat --model smollm2-135m

    In Python:
        import cutaway
        lm = cutaway.load("runs/shakespeare-char")
        lm.generate("ROMEO:", temperature=0.8, top_p=0.95)
        lm = cutaway.load("smollm2-135m")
        lm.chat_prompt("Why?")    # what --chat reads
        cutaway.generate_with_edits(lm, "ROMEO:", [cutaway.edits.zero("blocks.9.attn.z", head=6)])
    """
    chosen = Sampling.of(preset, **sampling)
    _check(prompts, {"--compare": compare, "--compile": compile, "--chat": chat}, interactive, num_beams, length_penalty)
    if model is None and random is None and prompts:
        _refuse_model_as_prompt(prompts[0])
    if not edit_prompt and edit is None:
        raise UsageError("--no-edit-prompt says how edits are made: give --edit with it")
    edits = None if edit is None else read_edits(edit)
    prompts, max_new_tokens = _filled(prompts, max_new_tokens, model, n_by_default=_COMPARED_TOKENS if compare else 200)
    lm, heading = _loaded(model, random, tokenizer=tokenizer, config=config, device=device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "seed": seed, "compile": compile}
    if chat:
        _chat(lm, _asked() if interactive else prompts, {"sampling": chosen, **options}, heading, is_asked=interactive)
    elif interactive:
        _answer(lm, {"sampling": chosen, **options}, heading)
    elif compare:
        _compare(lm, prompts[0], options, heading, as_json=json)
    elif edits is None and len(prompts) == 1 and num_beams == 1 and not json:
        _stream(lm, prompts[0], {"sampling": chosen, **options}, heading, shown=prompts[0])
    elif edits is not None:
        options |= {"preset": preset, "num_beams": num_beams, "length_penalty": length_penalty, **sampling}
        _print_edited(lm, prompts, edits, options, heading, edit_prompt=edit_prompt, as_json=json)
    else:
        options |= {"preset": preset, "num_beams": num_beams, "length_penalty": length_penalty, **sampling}
        _print_texts(prompts, lm.generate(list(prompts), **options), heading, as_json=json)


@dataclass
class _Heading:
    """What stands above what a model writes: its name, once, and in a conversation what it reads before it answers.

    Shown when there is text, so that none stands above a failure.
    """

    name: str | None
    read: str = ""

    def show(self) -> None:
        """Print on standard error what was not shown yet."""
        for part in (f"{self.name}\n" if self.name else "", self.read):
            if part:
                stderr_console().print(Text(part, style="dim"), soft_wrap=True)
        self.name, self.read = None, ""


def _loaded(model: str | None, random: str | None, **how: Any) -> tuple[LanguageModel, _Heading]:
    from cutaway.language_model import random_model

    if random is not None:
        return random_model(random, device=how["device"]), _Heading(None)
    source = model or _latest_or_offered()
    return load_named(source, **how), _Heading(source)


def _filled(
    prompts: tuple[str, ...], max_new_tokens: int | None, model: str | None, *, n_by_default: int
) -> tuple[tuple[str, ...], int]:
    """Return what to go on from and for how long: where it is not said, as the example of a model of the package, or a new line."""
    example = shipped_example(model)
    n_tokens = example.get("max_new_tokens", n_by_default) if max_new_tokens is None else max_new_tokens
    return prompts or (example.get("prompt", "\n"),), n_tokens


def _check(prompts: Sequence[str], one: dict[str, bool], interactive: bool, num_beams: int, length_penalty: float) -> None:
    """Refuse what would go unheard; the options in `one` take a single prompt."""
    given = [name for name, is_given in one.items() if is_given]
    if given and len(prompts) > 1:
        raise UsageError(f"{given[0]} takes one prompt, and there are {len(prompts)}: quote a prompt that has spaces")
    if "--chat" in given and not interactive and not prompts:
        raise UsageError("--chat takes a message, or --interactive to ask for messages")
    if length_penalty != 1 and num_beams == 1:
        raise UsageError("--length-penalty is for beam search: give --num-beams above 1 with it")


def _refuse_model_as_prompt(prompt: str) -> None:
    """Refuse a prompt that is a model's name: other verbs take the model first."""
    from cutaway.weights import resolve

    try:
        found = resolve(prompt)
    except (OSError, ValueError):
        return  # no model's name, but text
    if not isinstance(found, Path):
        raise UsageError(f"{prompt!r} is a model, and what generate takes first is a prompt: give --model {prompt}")


def _latest_or_offered() -> str:
    """Return the latest run; where there is none, the small pretrained model if it is here already or wanted."""
    from cutaway import assets
    from cutaway.runs import latest_run

    with suppress(FileNotFoundError):
        return str(latest_run().path)
    if assets.locate(_OFFERED):
        return _OFFERED
    if not _is_wanted():
        raise UsageError(
            f"there is no run yet: make one by `cutaway demo`, or take a pretrained model ({_OFFERED_SIZE}) by `--model {_OFFERED}`"
        )
    return _OFFERED


def _is_wanted() -> bool:
    """Ask whether to take the small pretrained model; where nobody can be asked, or the input ends (Ctrl-D), it is not."""
    if not sys.stdin.isatty():
        return False
    import questionary

    said = f"There is no run yet. Take SmolLM2-135M-Instruct, a pretrained language model ({_OFFERED_SIZE})?"
    with suppress(EOFError):
        return bool(questionary.confirm(said, default=True).unsafe_ask())
    return False


def _chat(lm: LanguageModel, messages: Iterable[str], options: dict[str, Any], heading: _Heading, *, is_asked: bool) -> None:
    """Answer messages one after the other, each after all before; what the model reads since its last answer stands dimmed above."""
    talk, read = list[dict[str, str]](), ""
    for message in messages:
        asked = [*talk, {"role": "user", "content": message}]
        try:
            prompt = lm.chat_prompt(asked)
            heading.read = prompt.removeprefix(read)
            answer = _stream(lm, prompt, {"allow_special": True, "bos": False, **options}, heading, shown="")
        except ValueError as error:
            if lm.chat_template is None or not is_asked:
                raise
            report_warning(str(error))  # one message that cannot be read does not end the conversation
        else:
            talk, read = [*asked, {"role": "assistant", "content": answer}], prompt + answer


def _answer(lm: LanguageModel, options: dict[str, Any], heading: _Heading) -> None:
    """Continue each prompt that is typed."""
    for prompt in _asked():
        try:
            _stream(lm, prompt, options, heading, shown=prompt)
        except ValueError as error:  # one prompt that cannot be read does not end the conversation
            report_warning(str(error))


def _stream(lm: LanguageModel, prompt: str, options: dict[str, Any], heading: _Heading, *, shown: str) -> str:
    """Print `shown` and the continuation piece by piece, and return that; what there is to say does not come in between."""
    notes: list[str] = []
    pieces = lm.stream(prompt, tell=notes.append, **options)
    first = next(pieces, "")  # a prompt that cannot be read raises before anything is written
    n_before = len(notes)
    heading.show()
    for note in notes:
        report_warning(note)
    text = ""
    sys.stdout.write(shown)
    for piece in chain([first], pieces):
        text += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)
    for note in notes[n_before:]:
        report_warning(note)
    return text


def _asked() -> Iterator[str]:
    """Yield what is typed, a prompt a line, until an empty line or the end of the input."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            prompt = input("prompt> " if is_terminal else "")
        except EOFError:
            return
        if not prompt:
            return
        yield prompt


def _print_texts(prompts: Sequence[str], texts: Sequence[str], heading: _Heading, *, as_json: bool) -> None:
    heading.show()
    if as_json:
        print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
        return
    print("\n\n".join(texts))


def _print_edited(
    lm: LanguageModel,
    prompts: Sequence[str],
    edits: Sequence[Edit],
    options: dict[str, Any],
    heading: _Heading,
    *,
    edit_prompt: bool,
    as_json: bool,
) -> None:
    """Continue each prompt under edits, and say above which they are and whether prompts were read under them."""
    from cutaway.interp.generating import generate_with_edits

    del options["compile"]  # not given with edits
    texts = [generate_with_edits(lm, prompt, edits, edit_prompt=edit_prompt, **options) for prompt in prompts]
    heading.show()
    if as_json:
        edited = {"edits": [str(edit) for edit in edits], "edit_prompt": edit_prompt}
        print_json([{"prompt": prompt, "text": text, **edited} for prompt, text in zip(prompts, texts, strict=True)])
        return
    read = "the prompt is read under them too" if edit_prompt else "the prompt is read as it is, and they begin after it"
    report_warning(f"edits: {'; '.join(map(str, edits))}; {read}")
    print("\n\n".join(texts))


def _compare(lm: LanguageModel, prompt: str, options: dict[str, Any], heading: _Heading, *, as_json: bool) -> None:
    from cutaway.generation.strategies import STRATEGIES

    texts = {name: lm.generate(prompt, **{**options, **strategy}) for name, strategy in STRATEGIES.items()}
    heading.show()
    if as_json:
        print_json([{"strategy": name, "prompt": prompt, "text": text} for name, text in texts.items()])
        return
    console = stdout_console()
    new_line = "↵" if is_unicode(console) else "\\n"
    rows = [(name, text.removeprefix(prompt).replace("\n", new_line)) for name, text in texts.items()]
    n_columns = max(1, min(console.width // _COLUMN, 3))
    n_rows = -(-len(rows) // n_columns)
    side_by_side = Table.grid(padding=(0, 3))
    for _ in range(n_columns):
        side_by_side.add_column(ratio=1)
    side_by_side.add_row(*(_texts_table(rows[start : start + n_rows], new_line) for start in range(0, len(rows), n_rows)))
    how_many = f"{options['max_new_tokens']} tokens, seed {options['seed']}"
    console.print(Text.assemble((f"{prompt!r} goes on", "bold"), (f"  {how_many}; {new_line} is a new line\n", "dim")))
    console.print(side_by_side)


def _texts_table(rows: Sequence[tuple[str, str]], new_line: str) -> Table:
    grid = table("strategy", "text")
    for name, text in rows:
        cell = Text(text)
        cell.highlight_words([new_line], "dim")
        grid.add_row(Text(name, style="cyan"), cell)
    return grid
