"""Models that come with the package: made from a finished reproduction, and held against one made anew."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.assets.shipped import shipped_card, shipped_models
from cutaway.experiments.frame.experiment import Experiment
from cutaway.experiments.frame.reproducing import reproduce
from cutaway.experiments.frame.sources import sources_sha256
from cutaway.interp.result import Result
from cutaway.interp.tensors import finite_or_none
from cutaway.report import filled_table, format_number
from cutaway.runtime import atomic_path, file_sha256
from cutaway.values import read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["ShippedCheck", "ship", "verify_shipped"]

_TOLERANCE = 0.1
"""How far, relative to it, a metric may move on another machine: sums add up in another order, and training goes its own way."""
_FLOOR = 1e-6
"""How far whatever its size."""


def ship(
    experiment: Experiment[Any],
    folder: Path,
    name: str,
    destination: Path,
    *,
    seed: int,
    about: str,
    prompt: str | None = None,
    max_new_tokens: int | None = None,
) -> Path:
    """Copy a model out of a finished reproduction's folder to `destination`/`name` with its card, and return where it is.

    `prompt` is an example of what it reads, `max_new_tokens` how many tokens its answer has, if not as many as are wanted.

    Raises ValueError for a seed that did not pass or did not train a model of this name, for settings that are not those of the
    small scale, which the command on the card runs, and for what other code measured or trained.
    """
    mark, record = read_object(folder / "experiment.json"), read_object(folder / f"seed-{seed}" / "result.json")
    _check_current(experiment, folder, mark, record)
    if not record["passed"] or name not in record["models"]:
        what = "trained no such model" if record["passed"] else "did not pass"
        raise ValueError(f"{folder} cannot give {name}: its seed {seed} {what}")
    example = {"prompt": prompt, "max_new_tokens": max_new_tokens}
    with atomic_path(destination / name) as temporary:
        shutil.copytree(folder / f"seed-{seed}" / name, temporary)
        card = {
            "name": name,
            "about": about,
            "example": {key: value for key, value in example.items() if value is not None},
            "experiment": mark["experiment"],
            "command": f"cutaway reproduce {mark['experiment']} --seed {seed}",
            "seed": seed,
            "settings": mark["settings"],
            "metrics": {check["name"]: check["value"] for check in record["checks"]},
            "made_with": record["made_with"],
            "trainings": record["trainings"],
            "sha256": file_sha256(temporary / "model.safetensors"),
        }
        (temporary / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return destination / name


def _check_current(experiment: Experiment[Any], folder: Path, mark: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    if mark["experiment"] != experiment.id or mark["settings"] != experiment.settings(experiment.scale("small").config):
        raise ValueError(f"{folder} is not of the small scale of {experiment.id}, which the command on a card runs")
    made_by = {record["made_with"]["sources"], *(each["sources"] for each in record["trainings"].values())}
    if made_by != {sources_sha256(experiment)}:
        raise ValueError(f"{folder} was measured or trained by other code than there is now: reproduce it in a new folder")


@dataclass(frozen=True, kw_only=True, repr=False)
class ShippedCheck(Result):
    """A shipped model's metrics beside those of one that was trained anew."""

    title: ClassVar[str] = "A shipped model, trained again"
    source: ClassVar[str] = "its card"

    name: str
    shipped: Mapping[str, float]
    retrained: Mapping[str, float]
    has_passed: bool
    """Whether the new one's checks passed."""
    is_same: bool
    """Whether the weights are the same to the last bit."""

    @property
    def differing(self) -> list[str]:
        """The metrics that are further apart than training on another machine explains."""
        both = self.shipped.keys() & self.retrained.keys()
        return [name for name in self.shipped if name in both and not self._is_close(self.shipped[name], self.retrained[name])]

    @property
    def missing(self) -> list[str]:
        """The metrics of the card that are no longer measured."""
        return [name for name in self.shipped if name not in self.retrained]

    @property
    def passed(self) -> bool:
        """Whether the new one passed its checks and every metric is near the card's."""
        return self.has_passed and not self.differing and not self.missing

    def _is_close(self, shipped: float, retrained: float) -> bool:
        far = max(_TOLERANCE * max(abs(shipped), abs(retrained)), _FLOOR)
        return shipped == retrained or abs(shipped - retrained) <= far

    def summary(self) -> str:
        """Return how they compare."""
        weights = "bit for bit the shipped weights" if self.is_same else "other weights than the shipped ones"
        apart = f"{len(self.differing)} of {len(self.shipped)} metrics are more than {_TOLERANCE:.0%} apart"
        checks = "its checks passed" if self.has_passed else "its checks FAILED"
        gone = f"; {len(self.missing)} of the card's are no longer measured: ship it anew" if self.missing else ""
        return f"{self.name}, trained again by the command on its card, has {weights}; {checks}; {apart}{gone}."

    def to_dict(self) -> dict[str, Any]:
        """Return both models' metrics."""
        metrics = {
            name: {"shipped": finite_or_none(value), "retrained": finite_or_none(self.retrained.get(name, math.nan))}
            for name, value in self.shipped.items()
        }
        return {"name": self.name, "passed": self.passed, "is_same": self.is_same, "metrics": metrics}

    def figures(self) -> Sequence[Figure]:
        """Return none: it is a table."""
        return []

    def views(self) -> Sequence[RenderableType]:
        """Return the table."""
        header, rows = self.table()
        return [filled_table(header, rows, right=header[1:3])]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return each metric of both."""
        rows = []
        for name, value in self.shipped.items():
            new = self.retrained.get(name)
            rows.append(
                [
                    name,
                    format_number(value),
                    "-" if new is None else format_number(new),
                    "apart" if name in self.differing else "missing" if new is None else "",
                ]
            )
        return ["metric", "shipped", "retrained", ""], rows


def verify_shipped(
    name: str, experiment: Experiment[Any], *, report: Callable[[int, int, str], None] = lambda *_: None
) -> ShippedCheck:
    """Train a shipped model again from nothing, by the settings and the seed on its card, and compare; nothing of it stays.

    Raises ValueError where the experiment's settings are no longer those of the card.
    """
    card = shipped_card(name)
    config = experiment.scale("small").config
    if experiment.settings(config) != card["settings"]:
        raise ValueError(f"{name} was trained at other settings than {experiment.id} has now: ship it anew")
    with TemporaryDirectory() as temporary:  # a folder that was there before might hold a model that is trained already
        result = reproduce(experiment, seeds=(card["seed"],), folder=Path(temporary), report=report)
        retrained = file_sha256(Path(temporary) / f"seed-{card['seed']}" / name / "model.safetensors")
    outcome = result.outcomes[card["seed"]]
    return ShippedCheck(
        name=name,
        shipped={metric: float(value) for metric, value in card["metrics"].items()},
        retrained={check.name: check.value for check in outcome.checks},
        has_passed=outcome.passed,
        is_same=retrained == file_sha256(shipped_models()[name] / "model.safetensors"),
    )
