"""`cutaway evaluate`: how good a model is by the field's own tests, and how two models differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from cutaway.cli.errors import UsageError, report_warning
from cutaway.cli.loading import load_named
from cutaway.report import print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from cutaway.evaluation import Evaluation
    from cutaway.evaluation.partial import Progress
    from cutaway.language_model import LanguageModel
    from cutaway.runs import Run
    from cutaway.tokenizers import Tokenizer

__all__ = ["evaluate"]

_Load = Callable[[str], "LanguageModel"]
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
    tokenizer: str | None = None,
    config: Path | None = None,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Measure models side by side: perplexity on a text, HellaSwag, LAMBADA; or see where two of them part.

    Stopped and given again, the same command goes on where it was; once complete, it measures anew. Standard errors follow each
    number.

    Args:
        models: runs, checkpoints, catalogue names, folders or files; the latest run unless given
        task NAME: what to measure
        data: a JSONL file for hellaswag and lambada, which are fetched unless given; text for perplexity, a run's own
            validation text unless given
        protocol NAME: hellaswag as lm-eval has it, or completion: raw text, per token
        limit: only the first so many rows, or for perplexity and --compare so many characters of the text
        window: perplexity reads so many tokens at once; n_ctx unless given
        stride: perplexity predicts so many new tokens at once; half of the window unless given
        checkpoints: every checkpoint of each run
        compare: how the predictions of two models differ on the text, and at which layer they part
        tokenizer NAME: gpt2, cl100k or a tokenizer.json, for models that came without one
        config FILE: the shape of a TransformerLens state, which does not hold it: a config.json of cutaway's
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
    _check(task, protocol, window, stride, limit, compare, checkpoints, models)
    sources = [source for model in models or (_latest(),) for source in (_checkpoints(model) if checkpoints else [model])]
    load = partial(load_named, tokenizer=tokenizer, config=config, device=device)
    if compare:
        return _compare(load, sources, data, limit, as_json=json)
    options: dict[str, Any] = {"limit": limit} if task != "perplexity" else {"window": window, "stride": stride}
    options |= {"protocol": protocol} if task == "hellaswag" else {}
    results = {source: _evaluate(load, task, source, data, limit, options) for source in sources}
    _warn_of_different_texts(results)
    _show(results, as_json=json)
    return None


def _check(
    task: _Task,
    protocol: str,
    window: int | None,
    stride: int | None,
    limit: int | None,
    compare: bool,
    checkpoints: bool,
    models: tuple[str, ...],
) -> None:
    """Refuse options that would go unheard."""
    if task != "hellaswag" and protocol != "lm-eval":
        raise UsageError("--protocol is for --task hellaswag")
    if (task != "perplexity" or compare) and (window or stride):
        raise UsageError("--window and --stride are for --task perplexity")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; expected at least 1")
    if compare and checkpoints:
        raise UsageError("--compare takes two models, not all checkpoints of a run: name two of them, without --checkpoints")
    if compare and (len(models) != 2 or task != "perplexity"):
        raise UsageError(f"--compare takes two models and a text, not {len(models)} models and --task {task}")


def _evaluate(load: _Load, task: _Task, source: str, data: str | None, limit: int | None, options: dict[str, Any]) -> Evaluation:
    """Load a model and measure it; it is gone when the next one is loaded."""
    from cutaway import evaluation
    from cutaway.assets import cache_dir

    lm, kept = load(source), cache_dir() / "evaluations"
    with _progress(source) as report:
        if task == "perplexity":
            text, name = _text(source, data, lm.tokenizer, limit)
            return evaluation.perplexity(lm, text, source=name, partial=kept, report=report, **options)
        measure: Any = evaluation.multiple_choice if task == "hellaswag" else evaluation.lambada
        return measure(lm, data or task, partial=kept, report=report, **options)  # type: ignore[no-any-return]


def _text(source: str, data: str | None, tokenizer: Tokenizer, limit: int | None) -> tuple[str | list[int], str]:
    """Return what to read, and what it is called: the text of `data`, or else the ids that the run validates on.

    Of either the first `limit` characters, so that models with other tokenizers read the same.
    """
    from cutaway.data import read_corpus

    if data is not None:
        return read_corpus(data).text[:limit], data
    run = _run_of(source)
    if run is None:
        raise UsageError(f"{source} is no run, which would have a text of its own: give one with --data")
    ids = _validation_ids(run, tokenizer)
    return ids if limit is None else ids[: _n_within(ids, tokenizer, limit)], f"validation part of {run.recipe['data']}"


def _run_of(source: str) -> Run | None:
    """Return the run that a model is, or comes from."""
    from cutaway.runs import Run, open_run_or_checkpoint

    try:
        found = open_run_or_checkpoint(source)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, Run) else found.run


def _validation_ids(run: Run, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that training kept for validation; raises ValueError where the text is not the one it read."""
    from cutaway.data import read_corpus, split_tokens, tokenize_corpus

    corpus = read_corpus(run.recipe["data"])
    if corpus.sha256 != run.manifest.get("data", {}).get("sha256", corpus.sha256):
        raise ValueError(
            f"{corpus.name} has changed since {run.path} was trained on it, so what was kept for validation is not known: "
            "put the old text back, or give a text with --data"
        )
    kept = split_tokens(tokenize_corpus(corpus, tokenizer), validation_fraction=run.recipe["validation_fraction"])[1]
    return [int(token) for token in kept]


def _n_within(ids: Sequence[int], tokenizer: Tokenizer, n_characters: int) -> int:
    """Return how many ids lie within the first characters of their text; a character begins where a byte does not go on with one."""
    n_begun = 0
    for place, token in enumerate(ids):
        n_begun += sum(byte & 0b1100_0000 != 0b1000_0000 for byte in tokenizer.decode_bytes([token]))
        if n_begun > n_characters:
            return place
    return len(ids)


def _latest() -> str:
    from cutaway.runs import latest_run

    return str(latest_run().path)


def _checkpoints(model: str) -> list[str]:
    from cutaway.runs import Run, open_run_or_checkpoint

    run = open_run_or_checkpoint(model)
    if not isinstance(run, Run):
        raise UsageError(f"{model} is one checkpoint: --checkpoints takes runs")
    return [str(checkpoint.path) for checkpoint in run.checkpoints()]


def _compare(load: _Load, sources: list[str], data: str | None, limit: int | None, *, as_json: bool) -> None:
    from cutaway.evaluation import compare

    a, b = map(load, sources)
    text, origin = _text(sources[0], data, a.tokenizer, limit)
    found = compare(a, b, text)
    if as_json:
        return print_json({"source": origin, **{name: value for name, value in found.to_dict().items() if name != "positions"}})
    console = stdout_console()
    for name, source in zip("ab", sources, strict=True):
        console.print(Text.assemble((f"{name}  ", "bold"), source), soft_wrap=True)
    console.print(Text(f"on {origin}\n\n{found}"), soft_wrap=True)
    return None


def _warn_of_different_texts(results: Mapping[str, Evaluation]) -> None:
    """Say so where runs were read on texts of their own that differ."""
    if len({result.settings.get("sha256") for result in results.values()}) > 1:
        report_warning("each run was read on its own validation text and these differ: give one text with --data to compare them")


def _show(results: dict[str, Evaluation], *, as_json: bool) -> None:
    from cutaway.evaluation import results_table

    if as_json:
        values = {source: result.to_dict() for source, result in results.items()}
        for each in values.values():
            if each["task"] == "perplexity":
                del each["rows"]  # its windows, thousands of them, which are no answers to anything
        return print_json(values)
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
def _progress(source: str) -> Iterator[Progress]:
    """Give a function that shows how many rows are done, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(source.rstrip("/").rpartition("/")[2], total=None)
        yield lambda n_done, n_total: bar.update(task, completed=n_done, total=n_total)
