"""`cutaway demo`: a small GPT learns to write like Shakespeare in about two minutes."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cutaway.cli.download import fetch_all
from cutaway.cli.errors import report_warning
from cutaway.report import print_sentence, stdout_console

if TYPE_CHECKING:
    from cutaway.runs import Run
    from cutaway.training import TrainConfig

__all__ = ["demo"]

_INSTEAD = {"shakespeare": "the plays from the package registry", "stdlib": "the source of Python's standard library"}


def demo(*, data: str | None = None, steps: int = 2000) -> None:
    """Train a GPT of 0.8 million parameters on Shakespeare, show what it writes before and after, and open it up.

    The text is tiny Shakespeare where it can be fetched, otherwise the plays from the package registry, otherwise the source of
    Python's standard library, which is on every machine. One page then shows what is inside it and inside SmolLM2 (93 MB, where it can
    be fetched): the logit lens, the heads, where an answer comes from. The run, with the loss curve and the page, stays in ./runs; one
    that was stopped goes on.

    Args:
        data TEXT: train on this text instead: a file, a folder, a glob or a corpus
        steps: how many steps to train

    In Python:
        import cutaway
        run = cutaway.train("shakespeare-char")
        print(cutaway.load(run).generate("ROMEO:"))
    """
    from cutaway.training import TrainConfig
    from cutaway.watching.run import resume, train

    source = data or _first_that_can_be_had()
    preset = "stdlib" if source == "stdlib" else "shakespeare-char"
    config, console = TrainConfig.preset(preset, data=source, name="demo", n_steps=steps), stdout_console()
    if stopped := _stopped(config):
        print_sentence(
            console, Text.assemble("Going on with ", (str(stopped.path), "bold"), ", which was stopped before its end.\n")
        )
    folder = resume(stopped.path) if stopped else train(config)
    picture = folder / "loss.svg"
    _draw(folder, picture)
    path, prompt = shlex.quote(str(folder)), _prompt(folder, source)
    page = _open(folder, source)
    said = Text.assemble("\nThe run is in ", (str(folder), "bold"), ", its loss curve in ", (str(picture), "bold"))
    said.append_text(Text.assemble(", what is inside in ", (str(page), "bold"), ". Try next:"))
    print_sentence(console, said)
    interpret = (f"interpret heads {path}", "interpret patch smollm2-135m --demo")
    for command in (f"generate {prompt} --model {path}", f"inspect {path}", *interpret):
        console.print(Text(f"  cutaway {command}"), soft_wrap=True)
    console.print("  cutaway          (a menu of everything)")


def _stopped(config: TrainConfig) -> Run | None:
    """Return the run of this recipe and this text that was stopped before its end, the last of several; None where there is none."""
    from cutaway.data import read_corpus
    from cutaway.runs import list_runs

    for run in reversed(list_runs()):
        newest = run.latest_checkpoint()
        is_done = newest is not None and (newest.step or 0) >= config.n_steps
        if is_done or run.recipe.get("name") != config.name or not _is_of(run, config):
            continue
        if run.manifest.get("data", {}).get("sha256") == read_corpus(config.data).sha256:
            return run
    return None


def _is_of(run: Run, config: TrainConfig) -> bool:
    """Return whether a run has a recipe, but for what it takes from its text and its machine."""
    try:
        began = config.of_run(run)
    except ValueError:  # it was changed, and is nothing to go on with
        return False
    return began.replace(dtype=config.dtype, model=began.model.replace(d_vocab=config.model.d_vocab)) == config


def _open(folder: Path, source: str) -> Path:
    """Look into the trained model and, where it can be had, SmolLM2; return the page."""
    import cutaway
    from cutaway.cli.tour import SMOLLM2, STOPS, write_tour

    models = {"the model you trained": (cutaway.load(folder), STOPS.get(source, STOPS["tinyshakespeare"]))}
    failure = fetch_all(["smollm2-135m"])[0].failure
    if failure:
        report_warning(f"SmolLM2 cannot be fetched here, and the page is of the trained model alone: {failure}")
    else:
        models["SmolLM2-135M"] = (cutaway.load("smollm2-135m"), SMOLLM2)
    return write_tour(models, folder / "inside.html", tell=report_warning)


def _first_that_can_be_had() -> str:
    for name, next_name in pairwise(("tinyshakespeare", "shakespeare", "stdlib")):
        if not fetch_all([name])[0].failure:
            return name
        report_warning(f"{name} cannot be fetched here: taking {_INSTEAD[next_name]} instead")
    return "stdlib"


def _prompt(folder: Path, source: str) -> str:
    """Return a prompt that the run's tokenizer can read, as a shell takes it."""
    from cutaway.data import read_corpus
    from cutaway.tokenizers import load_tokenizer

    prompt = "def " if source == "stdlib" else "ROMEO:"
    try:
        load_tokenizer(folder / "tokenizer.json").encode(prompt)
    except ValueError:
        prompt = read_corpus(source).text.split(maxsplit=1)[0]
    return f'"{prompt}"' if prompt.isascii() and not set(prompt) & set('"$`\\!') else shlex.quote(prompt)


def _draw(folder: Path, picture: Path) -> None:
    from cutaway.plots import loss_figure, save_figure
    from cutaway.runs import Run

    run = Run(folder)
    metrics = run.metrics()
    curves = {"train": metrics.curve("loss"), "validation": metrics.curve("val_loss")}
    save_figure(loss_figure(curves, title=Path(run.manifest["data"]["source"]).stem), picture)
