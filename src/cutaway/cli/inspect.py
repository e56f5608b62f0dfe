"""`cutaway inspect`: runs, checkpoints and models of any format, one in full or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cutaway.cli.errors import UsageError
from cutaway.cli.opened import AbsentModel, OpenedModel, open_subject
from cutaway.cli.pages import check_page
from cutaway.cli.parameters import COMPONENTS, Parameter, count_parameters
from cutaway.report import (
    Curve,
    HtmlReport,
    draw_curves,
    fields_table,
    filled_table,
    format_bytes,
    format_count,
    format_duration,
    format_share,
    is_unicode,
    print_json,
    print_sentence,
    stderr_console,
    stdout_console,
    table,
)
from cutaway.values import read_object

if TYPE_CHECKING:
    from cutaway.runs import Checkpoint, Metrics, Run

    Subject = Run | Checkpoint | OpenedModel | AbsentModel

__all__ = ["inspect", "describe", "final_numbers"]

_MAX_WIDTH = 100
_LEAST_BESIDE = 64  # columns that two configurations need beside each other
_SAID_ABOVE = {"name", "out", "data", "tokenizer"}


def inspect(models: tuple[str, ...] = (), /, *, config: Path | None = None, report: Path | None = None, json: bool = False) -> None:
    """Show a run or a model: configuration, parameters by component, and of a run its loss curve and checkpoints.

    What a run watched (`cutaway train --watch`) is drawn below the loss, with the steps between which it rose.

    Of a model headers alone are read, however large it is: a Hugging Face folder, a .gguf, nanoGPT's or TransformerLens's file. One of
    the catalogue that is not downloaded is shown by its shape.

    Several are shown side by side: where their configurations differ, the losses they reached, their curves in one picture.

    Args:
        models: runs, checkpoints, catalogue names, folders or files; without one, the latest run
        config FILE: the shape of a TransformerLens state, which does not hold it: the config.json of a model of cutaway's
        report FILE: write a page of one run with figures: the loss and what was watched over the same steps, checkpoints
        json: print JSON

    Examples:
        cutaway inspect                 the latest run
        cutaway inspect demo stdlib     side by side
        cutaway inspect runs/demo/checkpoints/step-000500
        cutaway inspect smollm2-135m    a model of the catalogue

    In Python:
        from cutaway.runs import latest_run
        run = latest_run()
        steps, losses = run.metrics().curve("val_loss")
        from cutaway.watching.record import read_watched
        read_watched(run.metrics()).report("watched.html")
    """
    from cutaway.runs import latest_run

    check_page(report)
    sources = [open_subject(name, config=config) for name in models] or [latest_run(has_checkpoint=False)]
    page = None if report is None else _page(sources)
    if json:
        print_json({"runs": [describe(source) for source in sources]})
    else:
        _show(sources)
    if page is not None and report is not None:
        said = Text.assemble("The report is in ", (str(page.write(report)), "bold"), ".")
        print_sentence(stderr_console() if json else stdout_console(), said)


def describe(source: Subject) -> dict[str, Any]:
    """Return what is known about a run, a checkpoint or a model, as values that JSON can hold."""
    parameters = count_parameters(source.model_config)
    described: dict[str, Any] = {
        "path": None if source.path is None else str(source.path),
        "model": source.model_config.to_dict(),
        "n_parameters": sum(parameter.count for parameter in parameters),
        "parameters": [asdict(parameter) | {"count": parameter.count} for parameter in parameters],
    }
    if isinstance(source, OpenedModel | AbsentModel):
        return described | source.to_dict()
    if (checkpoint := _as_checkpoint(source)) is not None:
        return described | {"kind": "checkpoint", "step": checkpoint.step, "n_bytes": checkpoint.n_bytes}
    run = _run_of(source)
    from cutaway.watching.record import read_watched

    metrics = run.metrics()
    return described | {
        "kind": "run",
        "train": run.recipe,
        "manifest": run.manifest,
        "final": final_numbers(metrics),
        "watched": read_watched(metrics).to_dict()["families"],
        "note": metrics.note,
        "checkpoints": [
            {"path": str(each.path), "step": each.step, "n_bytes": each.n_bytes, "written": each.written}
            for each in run.checkpoints()
        ],
    }


def final_numbers(metrics: Metrics) -> dict[str, float | None]:
    """Return the numbers that a run has come to; None for what was not logged."""
    steps, losses = metrics.curve("val_loss")
    names = ("step", "tokens", "time_s", "tokens_per_s", "loss", "val_loss")
    best = min(zip(losses, steps, strict=True), default=(None, None))
    return {name: metrics.last(name) for name in names} | {"best_val_loss": best[0], "best_val_step": best[1]}


def _show(sources: Sequence[Subject]) -> None:
    console = stdout_console()
    console.width = min(console.width, _MAX_WIDTH)
    shown = _single(sources[0], console) if len(sources) == 1 else _side_by_side(sources, console)
    for part in shown:
        console.print(part)
        console.print()


def _single(source: Subject, console: Console) -> list[RenderableType]:
    """Return the parts that show one run or checkpoint in full."""
    model = fields_table(_shown(source.model_config.to_dict()), title="Model")
    parameters = _parameter_table(count_parameters(source.model_config), is_wide=is_unicode(console))
    if isinstance(source, OpenedModel | AbsentModel):
        return [fields_table(source.lines(), title=source.name), model, parameters]
    if (checkpoint := _as_checkpoint(source)) is not None:
        return [fields_table(_checkpoint_lines(checkpoint), title=_label(source)), model, parameters]
    run = _run_of(source)
    metrics = run.metrics()
    recipe = {name: value for name, value in run.recipe.items() if name not in _SAID_ABOVE}
    training = fields_table(_shown(recipe), title="Training")
    beside = Table.grid(padding=(0, 3))
    beside.add_row(model, training)
    configurations: list[RenderableType] = [beside] if console.width >= _LEAST_BESIDE else [model, training]
    parts: list[RenderableType] = [fields_table(_run_lines(run, metrics), title=_label(source)), *configurations, parameters]
    curves = [Curve(label, *metrics.curve(name)) for label, name in (("train", "loss"), ("validation", "val_loss"))]
    parts += _curve_parts("Loss, nats a token", curves, console)
    parts += _watched_parts(metrics)
    if metrics.note:
        parts.append(Text(metrics.note, style="yellow"))
    return [*parts, _checkpoint_table(run, metrics)]


def _side_by_side(sources: Sequence[Subject], console: Console) -> list[RenderableType]:
    """Return the parts that compare several: only what differs, what was reached, and the curves together."""
    labels = [_label(source) for source in sources]
    configs = [_flat_config(source) for source in sources]
    names = list(dict.fromkeys(name for config in configs for name in config))
    differing = table("configuration", *labels, right=labels)
    for name in names:
        values = [_shown_value(config.get(name)) for config in configs]
        if len(set(values)) > 1:
            differing.add_row(Text(name, style="dim"), *values)
    parts: list[RenderableType] = [differing if differing.row_count else Text("The configurations are equal.")]
    reached = table("reached", *labels, right=labels)
    numbers = [_reached(source) for source in sources]
    for name in numbers[0]:
        reached.add_row(Text(name, style="dim"), *(each[name] for each in numbers))
    parts.append(reached)
    runs = [(label, run.metrics()) for label, run in zip(labels, map(_run_of_any, sources), strict=True) if run]
    name, title = ("val_loss", "Validation loss") if all(m.curve("val_loss")[0] for _, m in runs) else ("loss", "Loss")
    curves = [Curve(label, *metrics.curve(name)) for label, metrics in dict(runs).items()]
    parts += _curve_parts(f"{title}, nats a token", curves, console)
    notes = [f"{label}: {metrics.note}" for label, metrics in runs if metrics.note]
    return parts + [Text(note, style="yellow") for note in notes]


def _curve_parts(title: str, curves: Sequence[Curve], console: Console) -> list[RenderableType]:
    """Return the picture under its title, or a sentence while there is nothing to draw."""
    present = [curve for curve in curves if any(value == value for value in curve.values)]
    if not present:
        return [Text("No loss is logged yet.", style="dim")]
    picture = draw_curves(present, width=console.width, is_unicode=is_unicode(console))
    return [Text.assemble((f"{title}\n", "bold"), picture)]


def _parameter_table(parameters: Sequence[Parameter], *, is_wide: bool) -> Table:
    total = sum(parameter.count for parameter in parameters)
    times = " × " if is_wide else " x "
    footer = {"parameters": "total", "count": f"{total:,}"}
    grid = table("parameters", "shape", "layers", "count", "share", right=["layers", "count", "share"], footer=footer)
    for component in COMPONENTS:
        own = [parameter for parameter in parameters if parameter.component == component]
        count = sum(parameter.count for parameter in own)
        if own:
            grid.add_row(*(Text(cell, style="cyan") for cell in (component, "", "", f"{count:,}", format_share(count, total))))
        for parameter in own:
            shape = times.join(map(str, parameter.shape))
            tied = f"the same as {parameter.tied_to}" if parameter.tied_to else f"{parameter.count:,}"
            layers = str(parameter.n_places) if parameter.n_places > 1 else ""
            grid.add_row(f"  {parameter.name}", shape, layers, Text(tied, style="dim"), "")
    return grid


def _watched_parts(metrics: Metrics) -> list[RenderableType]:
    """Return the pictures of what was watched, under the sentences that say when it rose."""
    from cutaway.watching.record import read_watched

    return list(read_watched(metrics).views())


def _page(sources: Sequence[Subject]) -> HtmlReport:
    """Return the page of one run; raises UsageError for anything else, ValueError while there is nothing to draw."""
    from cutaway.runs import Run
    from cutaway.watching.record import read_watched

    run = sources[0]
    if len(sources) > 1 or not isinstance(run, Run):
        raise UsageError("--report shows one run: name one run alone")
    metrics = run.metrics()
    watched = read_watched(metrics)
    if not watched.losses:
        raise ValueError(f"{run.path} has logged nothing yet, and a page would be empty: wait for its first step")
    page = HtmlReport(run.name, subtitle=f"cutaway inspect {run.path}")
    page.add("Run", table=(("", ""), list(_run_lines(run, metrics).items())))
    watched.add_to(page)
    page.add("Checkpoints", table=(_CHECKPOINT, _checkpoint_rows(run, metrics)))
    settings = _shown(run.recipe | run.model_config.to_dict())
    page.add("Configuration", table=(("setting", "value"), list(settings.items())))
    return page


_CHECKPOINT = ("checkpoint", "written", "size", "validation loss")


def _checkpoint_table(run: Run, metrics: Metrics) -> RenderableType:
    rows = _checkpoint_rows(run, metrics)
    return filled_table(_CHECKPOINT, rows, right=_CHECKPOINT[2:]) if rows else Text("No checkpoint is written yet.", style="dim")


def _checkpoint_rows(run: Run, metrics: Metrics) -> list[Sequence[str]]:
    losses = dict(zip(*metrics.curve("val_loss"), strict=True))
    return [
        (each.name, _time(each.written), format_bytes(each.n_bytes), _loss(losses.get(each.step or 0)))
        for each in run.checkpoints()
    ]


def _run_lines(run: Run, metrics: Metrics) -> dict[str, str]:
    """Return the lines that say what a run is and how far it came."""
    final, manifest = final_numbers(metrics), run.manifest
    n_steps, data, tokenizer = (run.recipe.get(name) for name in ("n_steps", "data", "tokenizer"))
    return {
        "folder": str(run.path),
        "started": _iso_time(manifest.get("started")),
        "device": str(manifest.get("device", "-")),
        "data": f"{data or '-'}, {_tokenizer_line(manifest, tokenizer)}",
        "progress": f"step {_count(final['step'] or 0)} of {_count(n_steps)}, {_format(final['tokens'], format_count)} tokens, "
        f"{_format(final['time_s'], format_duration)}",
        "speed": f"{_format(final['tokens_per_s'], format_count)} tokens/s",
        "loss": f"train {_loss(final['loss'])}, validation {_loss(final['val_loss'])}"
        + (f", best {_loss(final['best_val_loss'])} at step {final['best_val_step']:,}" if final["best_val_step"] else ""),
    }


def _checkpoint_lines(checkpoint: Checkpoint) -> dict[str, str]:
    dtypes = ", ".join(sorted({dtype for dtype, _ in checkpoint.tensors().values()}))
    lines = {
        "folder": str(checkpoint.path),
        "written": _time(checkpoint.written),
        "size": f"{format_bytes(checkpoint.n_bytes)}, weights in {dtypes}",
    }
    card = checkpoint.path / "card.json"  # of a model that comes with cutaway
    return (
        (_card_lines(read_object(card)) if card.is_file() else {})
        | lines
        | ({"step": f"{checkpoint.step:,}"} if checkpoint.step is not None else {})
    )


def _card_lines(card: dict[str, Any]) -> dict[str, str]:
    prompt = card.get("example", {}).get("prompt")
    return {"about": str(card["about"]), **({"reads": repr(prompt)} if prompt else {}), "trained by": str(card["command"])}


def _reached(source: Subject) -> dict[str, str]:
    """Return what a run came to, or the run of a checkpoint, in the words of the table."""
    run = _run_of_any(source)
    final = final_numbers(run.metrics()) if run else dict.fromkeys(("step", "tokens", "time_s", "tokens_per_s", "loss"))
    n_parameters = sum(parameter.count for parameter in count_parameters(source.model_config))
    return {
        "parameters": f"{n_parameters:,}",
        "steps": _count(final["step"]),
        "tokens": _format(final["tokens"], format_count),
        "time": _format(final["time_s"], format_duration),
        "tokens/s": _format(final["tokens_per_s"], format_count),
        "train loss": _loss(final["loss"]),
        "validation loss": _loss(final.get("val_loss")),
        "best validation loss": _loss(final.get("best_val_loss")),
    }


def _flat_config(source: Subject) -> dict[str, Any]:
    if isinstance(source, OpenedModel | AbsentModel):
        return source.model_config.to_dict() | {"tokenizer": source.tokenizer}
    run = _run_of_any(source)
    return source.model_config.to_dict() | (run.recipe if run else {})


def _run_of_any(source: Subject) -> Run | None:
    if isinstance(source, OpenedModel | AbsentModel):
        return None
    checkpoint = _as_checkpoint(source)
    return _run_of(source) if checkpoint is None else checkpoint.run


def _as_checkpoint(source: Subject) -> Checkpoint | None:
    from cutaway.runs import Checkpoint

    return source if isinstance(source, Checkpoint) else None


def _run_of(source: Subject) -> Run:
    from cutaway.runs import Run

    if not isinstance(source, Run):
        raise TypeError(f"{source} is no run")
    return source


def _label(source: Subject) -> str:
    checkpoint = _as_checkpoint(source)
    run = None if checkpoint is None else checkpoint.run
    return source.name if run is None else f"{run.name}/{source.name}"


def _shown(config: dict[str, Any]) -> dict[str, str]:
    return {name: _shown_value(value) for name, value in config.items()}


def _shown_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _format(value: Any, how: Callable[[Any], str]) -> str:
    """Return a number in words, and what someone else has written in its place as it is."""
    if isinstance(value, int | float):
        return how(value)
    return "-" if value is None else str(value)


def _count(value: Any) -> str:
    return _format(value, "{:,}".format)


def _loss(value: float | None) -> str:
    return _format(value, "{:.4f}".format)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _iso_time(started: object) -> str:
    try:
        return _time(datetime.fromisoformat(str(started)).timestamp())
    except ValueError:
        return "-"


def _tokenizer_line(manifest: dict[str, Any], named: object) -> str:
    tokenizer = manifest.get("tokenizer", {})
    return f"tokenizer {named or tokenizer.get('kind', '-')}" + (
        f" ({_count(tokenizer['d_vocab'])} tokens)" if "d_vocab" in tokenizer else ""
    )
