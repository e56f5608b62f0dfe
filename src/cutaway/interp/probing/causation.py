"""Whether a probe's direction causes what it reads: activations moved along it, and what the model then does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.interp.probing.validation import Score
from cutaway.interp.result import Result
from cutaway.report import filled_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Choice", "Intervention", "Causation"]


@dataclass(frozen=True)
class Intervention:
    """One way to change the activation along a direction, and how often the behaviour flips."""

    label: str
    """`push 2`, `remove`, `flip`."""
    flipped: float
    """The share of texts whose behaviour flips."""
    standard_error: float
    random: tuple[float, ...]
    """The same share where each activation is moved along a random direction by the same amount, sign and all."""

    @property
    def random_mean(self) -> float:
        """The mean share over random directions."""
        return sum(self.random) / len(self.random)


@dataclass(frozen=True)
class Choice:
    """A place that was the best of several on some texts, with the probe that was fitted on them."""

    n_places: int
    n_texts: int
    """The texts that it was chosen and fitted on, none of which it is tested on."""
    accuracy: Score
    """How often the probe reads the labels of the texts that it is tested on."""


@dataclass(frozen=True, eq=False, repr=False)
class Causation(Result):
    """How often a behaviour flips when an activation is pushed along a probe's direction, loses it, or is moved to the other class."""

    title: ClassVar[str] = "Does it cause what it reads?"
    source: ClassVar[str] = 'Marks and Tegmark 2023, "The Geometry of Truth" (interventions along probe directions)'

    name: str
    pos: int
    classes: tuple[str, str]
    behaviour: str
    """What may flip, in words."""
    gap: float
    """How far apart the two classes' means lie along the direction: what a push of 1 adds."""
    is_held_out: bool
    """Whether each text was edited along the direction of a probe that was fitted on others."""
    n_texts: int
    n_counted: int
    """How many of the texts the model answers as their class wants without an edit; the others are not counted."""
    interventions: tuple[Intervention, ...]
    chosen: Choice | None = None
    """How the place was chosen, where it was chosen among several, on other texts."""

    def at(self, label: str) -> Intervention:
        """Return an intervention by its label; raises KeyError where there is none."""
        found = {each.label: each for each in self.interventions}
        if label not in found:
            raise KeyError(f"there is no intervention {label!r}; there are {', '.join(found)}")
        return found[label]

    def summary(self) -> str:
        """Return how often the behaviour flips, beside random directions."""
        flip, remove = self.at("flip"), self.at("remove")
        whose = "fitted on other texts" if self.is_held_out else "of these texts"
        return (
            f"{self._choice_said()}"
            f"Moved along the direction of a probe {whose} at {self.name}, position {self.pos}, to the mean of the other class, "
            f"{self.behaviour} flips in {100 * flip.flipped:.0f} % of {self.n_counted} texts, and with the direction taken "
            f"away in {100 * remove.flipped:.0f} %; moved by the same amounts along random directions in "
            f"{100 * flip.random_mean:.0f} % and {100 * remove.random_mean:.0f} % (mean of {len(flip.random)} directions, at most "
            f"{100 * max(flip.random):.0f} % and {100 * max(remove.random):.0f} %).{self._left_out()}"
        )

    def _choice_said(self) -> str:
        if self.chosen is None:
            return ""
        n_places, n_texts, accuracy = self.chosen.n_places, self.chosen.n_texts, self.chosen.accuracy
        return (
            f"For the test the texts were parted: on {n_texts} of them the place was chosen among {n_places} and the probe fitted; the "
            f"other {self.n_texts} had no part in that, and it reads them with accuracy {accuracy.value:.3f} ± "
            f"{accuracy.standard_error:.3f}. "
        )

    def _left_out(self) -> str:
        n_left = self.n_texts - self.n_counted
        what = "1 text is" if n_left == 1 else f"{n_left} texts are"
        return f" {what} not counted, as the model does not answer as their class wants." if n_left else ""

    def to_dict(self) -> dict[str, Any]:
        """Return every intervention with its shares."""
        return {
            "name": self.name,
            "pos": self.pos,
            "classes": list(self.classes),
            "behaviour": self.behaviour,
            "is_held_out": self.is_held_out,
            "gap": self.gap,
            "n_texts": self.n_texts,
            "n_counted": self.n_counted,
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "interventions": [
                {
                    "label": each.label,
                    "flipped": each.flipped,
                    "standard_error": each.standard_error,
                    "random": list(each.random),
                }
                for each in self.interventions
            ],
        }

    def figures(self) -> list[Figure]:
        """Return the shares as bars, each beside that of random directions."""
        from cutaway.plots import bars

        labels = [name for each in self.interventions for name in (each.label, f"{each.label}, random")]
        values = [value for each in self.interventions for value in (each.flipped, each.random_mean)]
        return [bars(values, labels=labels, title="Texts whose behaviour flips", label="share of texts", signed=False)]

    def views(self) -> list[RenderableType]:
        """Return the shares as a table."""
        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers[1:])]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the share flipped by each intervention."""
        rows = [
            (
                each.label,
                f"{each.flipped:.2f}",
                f"{each.standard_error:.2f}",
                f"{each.random_mean:.2f}",
                f"{min(each.random):.2f}",
                f"{max(each.random):.2f}",
            )
            for each in self.interventions
        ]
        return ("along the direction", "flipped", "± se", "random", "least", "most"), rows
