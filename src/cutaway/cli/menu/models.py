"""The models that the menu offers: runs with their state, and those of the catalogue."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.report import format_bytes

if TYPE_CHECKING:
    from cutaway.runs import Run

__all__ = ["OfferedModel", "find_runs", "find_pretrained", "find_shipped", "find_circuits", "text_of_run"]

_OFFERED = "smollm2-135m"
_CIRCUIT, _BEGINNING = '"format": "cutaway circuit"', 100
_MOMENTS_S = 120  # a run that changed so lately may be training still


@dataclass(frozen=True, kw_only=True)
class OfferedModel:
    """A model as the command line names it, and its state in a few words."""

    source: str
    state: str
    obstacle: str | None = None
    is_unfinished: bool = False


def find_runs() -> list[OfferedModel]:
    """Return the runs, the one that changed last first, with steps done, last validation loss, and whether it is complete.

    Those without a checkpoint, which cannot be chosen, come last.
    """
    from cutaway.runs import list_runs

    found = [_describe(run) for run in reversed(list_runs())]
    return sorted(found, key=lambda model: model.obstacle is not None)


def find_pretrained() -> list[OfferedModel]:
    """Return SmolLM2, which the package registry has, and whatever other model the cache holds."""
    from cutaway import assets

    found = []
    for row in assets.status():
        if row.kind == "model" and (row.is_present or row.name == _OFFERED):
            where = "here" if row.is_present else f"{format_bytes(row.n_bytes)} to fetch first"
            found.append(OfferedModel(source=row.name, state=f"pretrained, {where}"))
    return sorted(found, key=lambda model: model.source != _OFFERED)


def find_shipped() -> list[OfferedModel]:
    """Return the small models that come with the package, and what each is."""
    from cutaway.assets.shipped import shipped_card, shipped_language_models

    return [OfferedModel(source=name, state=shipped_card(name)["about"]) for name in shipped_language_models()]


def find_circuits() -> list[tuple[str, str]]:
    """Return the circuits of the folder that one is in, as name and age, the one written last first."""
    found = []
    for path in Path().glob("*.json"):
        with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
            if _CIRCUIT in file.read(_BEGINNING):
                found.append((path.stat().st_mtime, str(path)))
    return [(name, f"written {_ago(max(time.time() - written, 0.0))}") for written, name in sorted(found, reverse=True)]


def text_of_run(source: str) -> str | None:
    """Return the text that a run learnt from, as its manifest names it; None for what is no run or does not say."""
    from cutaway.runs import Run, is_run

    path = Path(source)
    return Run(path).text if is_run(path) else None


def _describe(run: Run) -> OfferedModel:
    checkpoint, metrics = run.latest_checkpoint(), run.metrics()
    n_steps, loss = run.recipe.get("n_steps"), metrics.last("val_loss")
    if checkpoint is None:
        return OfferedModel(source=str(run.path), state="", obstacle="no checkpoint yet")
    step = checkpoint.step or 0
    is_complete = n_steps is not None and step >= n_steps
    age_s = max(time.time() - run.last_change, 0.0)
    parts = [f"step {step:,} of {n_steps:,}" if n_steps is not None else f"step {step:,}"]
    parts += [f"val loss {loss:.2f}"] if isinstance(loss, float) else []
    parts.append("complete" if is_complete else "training or interrupted" if age_s < _MOMENTS_S else "interrupted")
    state = f"{', '.join(parts)}, {_ago(age_s)}"
    return OfferedModel(source=str(run.path), state=state, is_unfinished=not is_complete and age_s >= _MOMENTS_S)


def _ago(age_s: float) -> str:
    days = int(age_s // 86_400)
    if days:
        return f"{days} day{'s' * (days > 1)} ago"
    if age_s < _MOMENTS_S:
        return "just now"
    return f"{int(age_s // 60)} min ago" if age_s < 3600 else f"{int(age_s // 3600)} h ago"
