"""What a person sees while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cutaway.data import DocumentShards
from cutaway.ranks import Ranks
from cutaway.report import format_count, format_flops, print_sentence
from cutaway.runtime import describe_device
from cutaway.training.checkpoint import TrainState
from cutaway.training.config import TrainConfig, expected_loss
from cutaway.training.log import Record
from cutaway.training.pace import Pace
from cutaway.training.setup import Materials

__all__ = ["ProgressLine", "describe_run"]


class ProgressLine:
    """A line that follows the run on a terminal, and one that stays for every validation and sample."""

    def __init__(self, config: TrainConfig, *, n_done: int = 0, console: Console | None = None) -> None:
        self._console = console or _standard_error()
        self._n_steps = config.n_steps
        self._latest: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=config.n_steps, completed=n_done, figures="")

    def say(self, *sentences: str) -> None:
        """Print sentences above the line."""
        for sentence in sentences:
            print_sentence(self._console, Text(sentence, style="dim"))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, record: Record) -> None:
        """Show a record."""
        self._latest.update({name: value for name, value in record.items() if isinstance(value, int | float)})
        step = f"step {record['step']:>{len(str(self._n_steps))}}/{self._n_steps}"
        figures = self._figures("loss", "flops_per_s", "memory_gib", "tokens_per_s", beside=f"{step} ━━━━ 00:00:00 left")
        self._progress.update(self._task, completed=record["step"], figures=figures)
        if "val_loss" in record:
            figures = self._figures("loss", "val_loss", "tokens_per_s", "memory_gib", "flops_per_s", beside=step)
            self._console.print(step, figures, sep="  ", no_wrap=True)
            if watched := _watched(record):
                self._console.print(Text(f"  {watched}", style="dim"), no_wrap=True, overflow="ellipsis", crop=True)
        if "sample" in record:
            for line in str(record["sample"]).strip().split("\n")[:6]:
                self._console.print(Text(f"  │ {line}", style="dim"), no_wrap=True, overflow="ellipsis", crop=True)

    def _figures(self, *names: str, beside: str) -> str:
        """Return these figures in words, the first of them where there is no room for all `beside` what else is on the line."""
        there = [name for name in names if name in self._latest]
        while True:
            said = "  ".join(write(self._latest) for name, write in _WRITTEN.items() if name in there)
            if len(f"{beside}  {said}") <= self._console.width or len(there) <= 1:
                return said
            there.pop()


def _standard_error() -> Console:
    console = Console(stderr=True, highlight=False)
    if not console.is_jupyter:
        return console
    # a notebook gets the lines that stay, as text: for the moving line rich needs ipywidgets there
    return Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=False)


_WRITTEN: dict[str, Callable[[dict[str, float]], str]] = {
    "loss": lambda latest: f"loss {latest['loss']:.3f}",
    "val_loss": lambda latest: f"val {latest['val_loss']:.3f}",
    "tokens_per_s": lambda latest: f"{format_count(latest['tokens_per_s'])} tokens/s",
    "flops_per_s": lambda latest: f"{format_flops(latest['flops_per_s'])} ({latest['share_of_peak']:.0%})",
    "memory_gib": lambda latest: f"{latest['memory_gib']:.2f} GiB",
}
"""How a number of the record is written, in the order of the line."""


def _watched(record: Record) -> str:
    """Return of what is watched the head that is foremost in each family, and the scores."""
    families: dict[str, dict[str, float]] = {}
    for name, value in record.items():
        family, dot, label = name.partition(".")
        if dot:
            families.setdefault(family, {})[label] = value
    said = []
    for family, values in families.items():
        heads = {label: value for label, value in values.items() if label != "best"}
        if len(heads) < len(values) and heads:
            foremost = max(heads, key=heads.__getitem__)
            said.append(f"{family} {foremost} {heads[foremost]:z.2f}")
        elif "score" in values:
            said.append(f"{family} {values['score']:z.2f}")
    return "  ".join(said)


def _still_coming(materials: Materials) -> str:
    there = materials.train_tokens
    return " so far" if isinstance(there, DocumentShards) and not there.is_complete else ""


def _of_the_first(materials: Materials) -> str:
    there = materials.train_tokens
    return ", those of the first pair of shards" if isinstance(there, DocumentShards) and len(there.pairs) > 1 else ""


def describe_run(materials: Materials, folder: Path, state: TrainState, ranks: Ranks, pace: Pace) -> list[str]:
    """Return what a person wants to know before waiting: what learns from what, where, and what loss to expect."""
    config = materials.config
    n_params = sum(weight.numel() for weight in state.model.parameters())
    many = f"{ranks.n} processes ({config.parallel}): " if ranks.n > 1 else ""
    lines = [
        f"{folder}: {n_params / 1e6:.2f} million parameters, {materials.tokenizer.d_vocab} tokens ({materials.tokenizer.kind})",
        f"{materials.corpus.name}: {materials.n_train_tokens:,} tokens{_still_coming(materials)}, "
        f"{len(materials.validation_tokens):,} more to validate{_of_the_first(materials)}",
        f"{many}{describe_device(pace.device)}, {config.dtype}, {format_flops(pace.peak_flops_per_s)} at most"
        f"{'; compiled: the first step takes a while' if config.compile else ''}",
    ]
    if (loss := expected_loss(config, materials.corpus)) is not None:
        lines.append(f"expect a validation loss of about {loss:.2f} nats a token after {config.n_steps} steps")
    if state.step >= config.n_steps:
        return [f"{folder}: all {config.n_steps} steps are done; a larger --n-steps goes on"]
    if state.step:
        lines.append(f"going on after step {state.step}")
    return lines
