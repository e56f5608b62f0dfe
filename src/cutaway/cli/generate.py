"""`cutaway generate`: text from a run, a checkpoint, or random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cutaway.cli.command import options_of
from cutaway.cli.errors import report_warning
from cutaway.generation.sampling import Sampling
from cutaway.report import print_json, stderr_console, stdout_console, table

if TYPE_CHECKING:
    from cutaway.language_model import LanguageModel

__all__ = ["generate"]

_NEW_LINE = ("\n",)


@options_of(Sampling, group="Instead of the preset's")
def generate(
    prompts: tuple[str, ...] = _NEW_LINE,
    /,
    *,
    model: str | None = None,
    random: str | None = None,
    max_new_tokens: int = 200,
    preset: str = "balanced",
    num_beams: int = 1,
    length_penalty: float = 1.0,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    compare: bool = False,
    interactive: bool = False,
    compile: bool = False,
    device: str | None = None,
    json: bool = False,
    **sampling: Any,
) -> None:
    """Continue a prompt, shown as it comes, or several prompts together.

    Without --model the latest run goes on. The same seed gives the same text.

    Args:
        prompts: what to go on from; a new line unless given
        model PATH: a run or a checkpoint
        random PRESET: untrained weights of this shape, to see what training changes
        max_new_tokens: how many tokens to add at most
        preset: precise, balanced or creative
        num_beams: above 1, search for the likeliest text instead of drawing one
        length_penalty: above 1, beam search prefers longer texts
        stop TEXT ...: end before the first of these texts
        seed: which of the possible texts to draw
        compare: one prompt under every strategy and several temperatures
        interactive: ask for prompts until an empty line
        compile: compile the decoding step first; pays for long texts of large models
        device NAME: auto, cpu, cuda or mps
        json: print JSON

    Examples:
        cutaway generate "ROMEO:" --preset creative --seed 1
        cutaway generate "ROMEO:" --compare --max-new-tokens 60
        cutaway generate "ROMEO:" --stop "JULIET:" --model runs/shakespeare-char
        cutaway generate "Hello" --random gpt2

    In Python:
        lm = cutaway.load("runs/shakespeare-char")
        lm.generate("ROMEO:", max_new_tokens=100, temperature=0.8, top_p=0.95, seed=0)
    """
    chosen = Sampling.of(preset, **sampling)
    lm = _language_model(model, random, device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "seed": seed, "compile": compile}
    if interactive:
        for prompt in _asked():
            try:
                _stream(lm, prompt, chosen, options)
            except ValueError as error:  # one prompt that cannot be read does not end the conversation
                report_warning(str(error))
    elif compare:
        _compare(lm, prompts[0], options, as_json=json)
    elif len(prompts) == 1 and num_beams == 1 and not json:
        _stream(lm, prompts[0], chosen, options)
    else:
        options |= {"preset": preset, "num_beams": num_beams, "length_penalty": length_penalty, **sampling}
        _print_texts(prompts, lm.generate(list(prompts), **options), as_json=json)


def _language_model(model: str | None, random: str | None, device: str | None) -> LanguageModel:
    from cutaway.language_model import load, random_model
    from cutaway.runs import latest_run

    if random is not None:
        return random_model(random, device=device)
    source = model or str(latest_run().path)
    lm = load(source, device=device)
    stderr_console().print(Text(f"{source}\n", style="dim"), soft_wrap=True)
    return lm


def _stream(lm: LanguageModel, prompt: str, sampling: Sampling, options: dict[str, Any]) -> None:
    """Print the prompt and its continuation piece by piece."""
    pieces = lm.stream(prompt, sampling=sampling, tell=report_warning, **options)
    sys.stdout.write(prompt + next(pieces, ""))  # a prompt that cannot be read raises before anything is written
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


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


def _print_texts(prompts: Sequence[str], texts: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
        return
    print("\n\n".join(texts))


def _compare(lm: LanguageModel, prompt: str, options: dict[str, Any], *, as_json: bool) -> None:
    from cutaway.generation.strategies import STRATEGIES

    texts = {name: lm.generate(prompt, **{**options, **strategy}) for name, strategy in STRATEGIES.items()}
    if as_json:
        print_json([{"strategy": name, "prompt": prompt, "text": text} for name, text in texts.items()])
        return
    grid = table("strategy", "text", title=repr(prompt))
    for name, text in texts.items():
        grid.add_row(Text(name, style="cyan"), Text(text.removeprefix(prompt).strip("\n")))
        grid.add_section()
    stdout_console().print(grid)
