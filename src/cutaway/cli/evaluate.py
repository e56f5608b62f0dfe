"""`cutaway evaluate`: how good a model is by the field's own tests, and how two models differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from cutaway.cli.errors import UsageError
from cutaway.report import print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from cutaway.evaluation import Evaluation
    from cutaway.evaluation.partial import Report
    from cutaway.language_model import LanguageModel

__all__ = ["evaluate"]

_Task = Literal["perplexity", "hellaswag", "lambada"]


def evaluate(
    models: tuple[str, ...] = (),
    /,
    *,
    task: _Task = "perplexity",
    data: str | None = None,
    protocol: str = "lm-eval",
    limit: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    checkpoints: bool = False,
    compare: bool = False,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Measure models side by side: perplexity on a text, HellaSwag, LAMBADA; or see where two of them part.

    What was measured is kept as it comes: the same command, stopped and given again, goes on. Standard errors follow each number.

    Args:
        models: runs, checkpoints, catalogue names, folders or files; the latest run unless given
        task NAME: what to measure
        data: a JSONL file for hellaswag and lambada, which are fetched unless given; text for perplexity, a run's own
            validation text unless given
        protocol NAME: hellaswag as lm-eval has it, or completion: raw text, per token
        limit: only so many rows, or for perplexity so many tokens
        window: perplexity reads so many tokens at once; n_ctx unless given
        stride: perplexity predicts so many new tokens at once; half of the window unless given
        checkpoints: every checkpoint of each run
        compare: how the predictions of two models differ on the text, and at which layer they part
        device NAME: auto, cpu, cuda or mps
        json: print JSON

    Examples:
        cutaway evaluate smollm2-135m --task hellaswag --limit 200
        cutaway evaluate runs/demo --checkpoints
        cutaway evaluate gpt2 runs/mine --data notes.txt
        cutaway evaluate runs/a runs/b --compare --data notes.txt

    In Python:
        from cutaway import evaluation
        lm = cutaway.load("smollm2-135m")
        evaluation.multiple_choice(lm, limit=200)
        cutaway.compare(lm, other, "some text")
    """
    _check(task, protocol, window, stride, limit, compare, models)
    sources = [source for model in models or (_latest(),) for source in (_checkpoints(model) if checkpoints else [model])]
    if compare:
        return _compare(sources, data, limit, device, as_json=json)
    options = {"limit": limit} if task != "perplexity" else {"window": window, "stride": stride}
    results = {}
    for source in sources:
        lm = _load(source, device)
        given = options | ({"protocol": protocol} if task == "hellaswag" else {})
        results[source] = _evaluate(task, lm, source, data, limit, given)
    _show(results, as_json=json)
    return None


def _check(
    task: _Task,
    protocol: str,
    window: int | None,
    stride: int | None,
    limit: int | None,
    compare: bool,
    models: tuple[str, ...],
) -> None:
    """Refuse options that would go unheard."""
    if task != "hellaswag" and protocol != "lm-eval":
        raise UsageError("--protocol is for --task hellaswag")
    if (task != "perplexity" or compare) and (window or stride):
        raise UsageError("--window and --stride are for --task perplexity")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; expected at least 1")
    if compare and (len(models) != 2 or task != "perplexity"):
        raise UsageError(f"--compare takes two models and a text, not {len(models)} models and --task {task}")


def _evaluate(
    task: _Task, lm: LanguageModel, source: str, data: str | None, limit: int | None, options: dict[str, Any]
) -> Evaluation:
    from cutaway import evaluation
    from cutaway.assets import cache_dir

    partial = cache_dir() / "evaluations"
    with _progress(source) as report:
        if task == "perplexity":
            text = _text(source, data, lm, limit)
            return evaluation.perplexity(lm, text, partial=partial, report=report, **options)
        measure: Any = evaluation.multiple_choice if task == "hellaswag" else evaluation.lambada
        return measure(lm, data or task, partial=partial, report=report, **options)  # type: ignore[no-any-return]


def _text(source: str, data: str | None, lm: LanguageModel, limit: int | None) -> str:
    """Return the text to read: of `data`, or else what the run kept for validation; its first `limit` tokens."""
    from cutaway.data import read_corpus, split_tokens
    from cutaway.runs import Run, open_run_or_checkpoint

    if data is not None:
        text = read_corpus(data).text
        return text if limit is None else lm.text(lm.tokens(text)[0, :limit])
    try:
        found = open_run_or_checkpoint(source)
    except (OSError, ValueError):
        found = None
    run = found if isinstance(found, Run) else found.run if found else None
    if run is None:
        raise UsageError(f"{source} is no run, which would have a text of its own: give one with --data")
    tokens = lm.tokens(read_corpus(run.recipe["data"]).text)[0]
    kept = split_tokens(tokens.numpy(force=True).astype("uint32"), validation_fraction=run.recipe["validation_fraction"])[1]
    return lm.text(kept[:limit].tolist())


def _latest() -> str:
    from cutaway.runs import latest_run

    return str(latest_run().path)


def _checkpoints(model: str) -> list[str]:
    from cutaway.runs import Run, open_run_or_checkpoint

    run = open_run_or_checkpoint(model)
    if not isinstance(run, Run):
        raise UsageError(f"{model} is one checkpoint: --checkpoints takes runs")
    return [str(checkpoint.path) for checkpoint in run.checkpoints()]


def _load(source: str, device: str | None) -> LanguageModel:
    from cutaway.language_model import load

    return load(source, device=device)


def _compare(sources: list[str], data: str | None, limit: int | None, device: str | None, *, as_json: bool) -> None:
    from cutaway.evaluation import compare

    a, b = (_load(source, device) for source in sources)
    found = compare(a, b, _text(sources[0], data, a, limit))
    if as_json:
        return print_json(found.to_dict())
    console = stdout_console()
    for name, source in zip("ab", sources, strict=True):
        console.print(Text.assemble((f"{name}  ", "bold"), source), soft_wrap=True)
    console.print(Text(f"\n{found}"), soft_wrap=True)
    return None


def _show(results: dict[str, Evaluation], *, as_json: bool) -> None:
    from cutaway.evaluation import results_table

    if as_json:
        return print_json({source: result.to_dict() for source, result in results.items()})
    stdout_console().print(results_table(_short(results)))
    return None


def _short(results: dict[str, Evaluation]) -> dict[str, Evaluation]:
    """Call each model by the end of its path that tells it from the others."""

    def end(source: str, n_parts: int) -> str:
        return "/".join(source.rstrip("/").split("/")[-n_parts:])

    for n_parts in range(1, 8):
        named = {end(source, n_parts): result for source, result in results.items()}
        if len(named) == len(results):
            return named
    return results


@contextmanager
def _progress(source: str) -> Iterator[Report]:
    """Give a function that shows how many rows are done, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(source.rstrip("/").rpartition("/")[2], total=None)
        yield lambda n_done, n_total: progress.update(task, completed=n_done, total=n_total)
