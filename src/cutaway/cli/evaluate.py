"""`cutaway evaluate`: how good a model is by the field's own tests, and how two models differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError, describe, report_warning
from cutaway.cli.loading import load_named
from cutaway.cli.many_processes import shares_work
from cutaway.report import print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from cutaway.data import DocumentShards
    from cutaway.evaluation import Evaluation
    from cutaway.evaluation.partial import Progress
    from cutaway.language_model import LanguageModel
    from cutaway.runs import Run
    from cutaway.tokenizers import Tokenizer

__all__ = ["evaluate"]

_Load = Callable[[str], "LanguageModel"]
_Task = Literal["perplexity", "hellaswag", "lambada"]

_HEARD_BY = {"protocol": "hellaswag", "window": "perplexity", "stride": "perplexity"}
"""Options that a single task has."""


@shares_work
@excludes("compare", "task", "checkpoints", "window", "stride", why="it reads one text with two models, and measures nothing else")
def evaluate(
    models: tuple[str, ...] = (),
    /,
    *,
    task: _Task = "perplexity",
    data: str | None = None,
    protocol: str | None = None,
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
    number. Started by torchrun, many processes share the rows; with --compare each reads the whole text.

    Args:
        models: runs, checkpoints, catalogue names, folders or files; the latest run unless given
        task NAME: what to measure
        data: a JSONL file for hellaswag and lambada, which are fetched unless given; text for perplexity, a run's own
            validation text unless given
        protocol NAME: hellaswag as lm-eval has it, which holds unless given, or completion: raw text, per token
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
        torchrun --standalone --nproc-per-node=2 -m cutaway evaluate smollm2-135m --task lambada

    In Python:
        import cutaway
        from cutaway import evaluation
        lm = cutaway.load("smollm2-135m")
        evaluation.multiple_choice(lm, limit=200)
        cutaway.compare(lm, other, "some text")
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; expected at least 1")
    options = _options(task, protocol=protocol, window=window, stride=stride)
    load = partial(load_named, tokenizer=tokenizer, config=config, device=device)
    sources = list(models or [_latest()])
    if compare:
        return _compare(load, sources, data, limit, as_json=json)
    if checkpoints:
        sources = [checkpoint for source in sources for checkpoint in _checkpoints(source)]
    measure = _Measurement(task, data, limit, options)
    results: dict[str, Evaluation | str] = {}
    from cutaway.ranks import shared_work

    with shared_work(device or "auto"):
        for source in sources:
            with _naming(source, sources):
                results[source] = _measured(measure, load, source, may_be_damaged=checkpoints)
    _warn_of_different_texts(results)
    _show(results, as_json=json)
    return _raise_unreadable(results)


def _options(task: _Task, **given: Any) -> dict[str, Any]:
    """Return the options that were given; raises UsageError for one that the task would not hear."""
    heard = {name: value for name, value in given.items() if value is not None}
    for name in heard:
        if task != _HEARD_BY[name]:
            raise UsageError(f"--{name} is for --task {_HEARD_BY[name]}")
    return heard


@dataclass(frozen=True)
class _Measurement:
    """What is measured of every model, and how."""

    task: _Task
    data: str | None
    limit: int | None
    options: dict[str, Any]

    def __call__(self, lm: LanguageModel, source: str) -> Evaluation:
        """Measure a model, or go on where that was stopped."""
        from cutaway import evaluation
        from cutaway.assets import cache_dir

        kept = cache_dir() / "evaluations"
        with _progress(source, "windows" if self.task == "perplexity" else "rows") as report:
            if self.task == "perplexity":
                text, name = _text(source, self.data, lm.tokenizer, self.limit)
                return evaluation.perplexity(lm, text, source=name, partial=kept, report=report, **self.options)
            measure: Any = evaluation.multiple_choice if self.task == "hellaswag" else evaluation.lambada
            options = self.options | {"limit": self.limit, "partial": kept, "report": report}
            return measure(lm, self.data or self.task, **options)  # type: ignore[no-any-return]


def _measured(measure: _Measurement, load: _Load, source: str, *, may_be_damaged: bool) -> Evaluation | str:
    """Load a model and measure it, or say why it cannot be read; it is gone when the next one is loaded."""
    try:
        lm = load(source)
    except (OSError, ValueError) as error:
        if not may_be_damaged:
            raise
        return describe(error)
    return measure(lm, source)


@contextmanager
def _naming(source: str, sources: Sequence[str]) -> Iterator[None]:
    """Note of an error which of several models it is about."""
    try:
        yield
    except Exception as error:
        if len(sources) > 1:
            error.add_note(source)
        raise


def _text(source: str, data: str | None, tokenizer: Tokenizer, limit: int | None) -> tuple[str | list[int], str]:
    """Return what to read, and what it is called: the text of `data`, or else the ids that the run validates on.

    Of either the first `limit` characters, so that models with other tokenizers read the same.
    """
    from cutaway.data import DocumentShards, read_corpus

    if data is not None and not DocumentShards.are_in(data):
        return read_corpus(data).text[:limit], data
    if data is not None:
        ids, name = _ids_of_shards(DocumentShards.open(data), tokenizer), data
    elif (run := _run_of(source)) is None:
        raise UsageError(f"{source} is no run, which would have a text of its own: give one with --data")
    else:
        ids, name = _validation_ids(run, tokenizer), run.recipe["data"]
    return ids if limit is None else ids[: _n_within(ids, tokenizer, limit)], f"the validation part of {name}"


def _ids_of_shards(shards: DocumentShards, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that are for validation, of the first pair; raises ValueError for those of another tokenizer."""
    from cutaway.tokenizers import tokenizer_hash

    if shards.about["tokenizer"]["sha256"] != tokenizer_hash(tokenizer):
        raise ValueError(
            f"{shards.folder} was encoded by another tokenizer than the model's: give the documents themselves as text"
        )
    return [int(token) for token in shards.read("validation", 0)]


def _run_of(source: str) -> Run | None:
    """Return the run that a model is, or comes from."""
    from cutaway.runs import Checkpoint, Run
    from cutaway.weights import resolve

    found = resolve(source)
    if isinstance(found, Checkpoint):
        return found.run
    return found if isinstance(found, Run) else None


def _validation_ids(run: Run, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that training kept for validation; raises ValueError where the text is not the one it read."""
    from cutaway.data import DocumentShards, read_corpus, split_tokens, tokenize_corpus
    from cutaway.training import TrainConfig
    from cutaway.training.arriving import shards_folder

    recipe = TrainConfig.of_run(run)
    folder = shards_folder(recipe)
    corpus = read_corpus(recipe.data) if folder is None else DocumentShards.open(folder)
    if corpus.sha256 != run.manifest.get("data", {}).get("sha256", corpus.sha256):
        raise ValueError(
            f"{corpus.name} has changed since {run.path} was trained on it, so what was kept for validation is not known: "
            "put the old text back, or give a text with --data"
        )
    if isinstance(corpus, DocumentShards):
        return _ids_of_shards(corpus, tokenizer)
    kept = split_tokens(tokenize_corpus(corpus, tokenizer), validation_fraction=recipe.validation_fraction)[1]
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
    from cutaway.runs import Run
    from cutaway.weights import resolve

    run = resolve(model)
    if not isinstance(run, Run):
        raise UsageError(f"{model} is one model: --checkpoints takes runs")
    if not (found := run.checkpoints()):
        raise UsageError(f"{model} has no checkpoint yet: go on with it by `cutaway train --resume {run.path}`")
    return [str(checkpoint.path) for checkpoint in found]


def _compare(load: _Load, sources: list[str], data: str | None, limit: int | None, *, as_json: bool) -> None:
    from cutaway.evaluation import compare

    if len(sources) != 2:
        raise UsageError(f"--compare takes two models, and there {'is' if len(sources) == 1 else 'are'} {len(sources)}")
    loaded = []
    for source in sources:
        with _naming(source, sources):
            loaded.append(load(source))
    a, b = loaded
    text, origin = _text(sources[0], data, a.tokenizer, limit)
    found = compare(a, b, text)
    if as_json:
        return print_json({"source": origin, **{name: value for name, value in found.to_dict().items() if name != "positions"}})
    console = stdout_console()
    for name, source in zip("ab", sources, strict=True):
        console.print(Text.assemble((f"{name}  ", "bold"), source), soft_wrap=True)
    console.print(Text(f"on {origin}\n\n{found}"), soft_wrap=True)
    return None


def _warn_of_different_texts(results: Mapping[str, Evaluation | str]) -> None:
    """Say so where runs were read on texts of their own that differ."""
    if len({result.settings.get("sha256") for result in results.values() if not isinstance(result, str)}) > 1:
        report_warning("each run was read on its own validation text and these differ: give one text with --data to compare them")


def _show(results: dict[str, Evaluation | str], *, as_json: bool) -> None:
    """Print what was found; a sentence stands for a model that could not be read."""
    from cutaway.evaluation import results_table

    if as_json:
        return print_json({source: _as_json(result) for source, result in results.items()})
    found = {name: None if isinstance(result, str) else result for name, result in _short(results).items()}
    if any(found.values()):
        stdout_console().print(results_table(found))
    return None


def _as_json(result: Evaluation | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"error": result}
    values = result.to_dict()
    if result.task == "perplexity":
        del values["rows"]  # its windows, thousands of them, which are no answers to anything
    return values


def _raise_unreadable(results: dict[str, Evaluation | str]) -> None:
    """Raise RuntimeError with why some could not be read, if any."""
    if said := [result for result in results.values() if isinstance(result, str)]:
        raise RuntimeError("\n  ".join([f"{len(said)} of {len(results)} checkpoints could not be read", *said]))


def _short(results: dict[str, Evaluation | str]) -> dict[str, Evaluation | str]:
    """Call each model by the end of its path that tells it from the others."""

    def end(source: str, n_parts: int) -> str:
        return "/".join(source.rstrip("/").split("/")[-n_parts:])

    for n_parts in range(1, 8):
        named = {end(source, n_parts): result for source, result in results.items()}
        if len(named) == len(results):
            return named
    return results


@contextmanager
def _progress(source: str, unit: str) -> Iterator[Progress]:
    """Give a function that shows on a terminal how many are done; says where it goes on what was stopped, and when it is stopped."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console, name = stderr_console(), source.rstrip("/").rpartition("/")[2]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(compact=True),
    )
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, seen = bar.add_task(name, total=None), ""

        def report(n_done: int, n_total: int) -> None:
            nonlocal seen
            is_first, seen = not seen, f"after {n_done:,} of {n_total:,} {unit}"
            if is_first and n_done:
                report_warning(f"{name}: going on {seen}")
            bar.update(task, completed=n_done, total=n_total)

        try:
            yield report
        except KeyboardInterrupt:
            if not seen:
                raise
            raise KeyboardInterrupt(f"stopped {seen}: the same command goes on from there") from None
