"""`cutaway demo`: a small GPT learns to write like Shakespeare in about two minutes."""

from __future__ import annotations

from pathlib import Path

from cutaway.report import stderr_console, stdout_console

__all__ = ["demo"]


def demo(*, data: str | None = None, steps: int = 2000) -> None:
    """Train a GPT of 0.8 million parameters on Shakespeare, show what it writes before and after, and draw its loss.

    The text is tiny Shakespeare where it can be fetched, otherwise the plays from the package registry, otherwise the source of
    Python's standard library, which is on every machine. The run, with the picture, stays in ./runs.

    Args:
        data: train on this text instead: a file, a folder, a glob or a corpus
        steps: how many steps to train

    In Python:
        run = cutaway.train("shakespeare-char")
        print(cutaway.load(run).generate("\\n", max_new_tokens=300))
    """
    from cutaway import training

    source = data or _first_that_can_be_had()
    preset = "stdlib" if source == "stdlib" else "shakespeare-char"
    folder = training.train(training.TrainConfig.preset(preset, data=source, name="demo", n_steps=steps))
    picture = folder / "loss.svg"
    _draw(folder, picture)
    console = stdout_console()
    console.print(f"\nThe run is in [bold]{folder}[/], its loss curve in [bold]{picture}[/]. Try next:", soft_wrap=True)
    for command in ('generate "ROMEO:"', 'generate "ROMEO:" --compare', "inspect", "train --help"):
        console.print(f"  cutaway {command}", highlight=False)


def _first_that_can_be_had() -> str:
    from cutaway.assets import AssetError, fetch

    for name in ("tinyshakespeare", "shakespeare"):
        try:
            fetch(name)
        except AssetError:
            stderr_console().print(f"{name} cannot be fetched here.", style="dim")
        else:
            return name
    return "stdlib"


def _draw(folder: Path, picture: Path) -> None:
    from cutaway.plots import loss_figure, save_figure
    from cutaway.runs import Run

    run = Run(folder)
    metrics = run.metrics()
    curves = {"train": metrics.curve("loss"), "validation": metrics.curve("val_loss")}
    save_figure(loss_figure(curves, title=Path(run.manifest["data"]["source"]).stem), picture)
