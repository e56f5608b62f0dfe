"""What an experiment is: a claim with its source, a configuration for each scale, a run of one seed, and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from cutaway.experiments.frame.check import Check
from cutaway.experiments.frame.trial import Trial
from cutaway.values import look_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Experiment", "Outcome", "Savable", "Scale"]

_Config = TypeVar("_Config")


@runtime_checkable
class Savable(Protocol):
    """What writes itself as a folder, from which it is loaded again: language models and toy models do."""

    def save(self, folder: Path, /) -> None:
        """Write it; `folder` is not there yet."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one seed came to."""

    checks: tuple[Check, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What else is worth knowing, by its name in a table."""
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """What figures are drawn of: matrices, and curves as rows of steps and values."""
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What figures write: the characters of a passage, the names of rows."""
    models: Mapping[str, Savable] = field(default_factory=dict)
    """What was trained, by name: each is kept as a folder that `cutaway.load` or `ToyModels.load` opens."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Scale(Generic[_Config]):
    """A configuration, and what one seed of it takes on two cores: measured, and rounded up; None where it was not measured."""

    config: _Config
    minutes: float | None = None
    memory_gib: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[_Config]):
    """A published result as a claim that a run can refute."""

    id: str
    title: str
    claim: str
    """What is claimed, in a sentence or two."""
    source: str
    """The paper whose result it is."""
    scales: Mapping[str, Scale[_Config]]
    """`small` is for two cores, `paper` for the sizes that were published, where these differ; `reduced` is what the tests run."""
    run: Callable[[_Config, Trial], Outcome]
    """Trains, measures and checks one seed."""
    draw: Callable[[Outcome], Mapping[str, Figure]]
    """Makes the figures of one seed, by name."""
    captions: Mapping[str, str]
    """What there is to see in each figure, in a sentence or two that hold of every seed that passes, by the figure's name."""

    @property
    def is_fast(self) -> bool:
        """Whether a seed of the small scale takes at most a minute."""
        minutes = self.scales["small"].minutes
        return minutes is not None and minutes <= 1

    def scale(self, name: str) -> Scale[_Config]:
        """Return the configuration of this name; raises ValueError for one that the experiment does not have."""
        offered = {each: self.scales[each] for each in (self.scales if name in self.scales else self.offered_scales)}
        return look_up(offered, name, f"scale of {self.id}")

    def figures(self, outcome: Outcome) -> Mapping[str, Figure]:
        """Return what `draw` makes of an outcome; raises ValueError for figures that are not those with captions."""
        figures = self.draw(outcome)
        if list(figures) != list(self.captions):
            raise ValueError(
                f"{self.id} draws {list(figures)} and has captions for {list(self.captions)}: give one a figure, in order"
            )
        return figures

    @property
    def offered_scales(self) -> list[str]:
        """The scales for those who reproduce: all but that of the tests."""
        return [name for name in self.scales if name != "reduced"]

    def settings(self, config: _Config) -> dict[str, Any]:
        """Return a configuration's fields as values that JSON can hold; raises ValueError for one of another experiment."""
        kind = type(next(iter(self.scales.values())).config)
        if type(config) is not kind:
            raise ValueError(f"config is a {type(config).__name__}; {self.id} is configured by a {kind.__module__}.{kind.__name__}")
        settings: dict[str, Any] = json.loads(json.dumps(asdict(config)))  # type: ignore[call-overload]
        return settings
