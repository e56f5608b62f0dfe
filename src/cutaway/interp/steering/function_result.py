"""What looking for a function vector found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.attention import head_label
from cutaway.interp.result import Result
from cutaway.interp.steering.vector import SteeringVector
from cutaway.report import filled_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["FunctionVector", "Placing"]


@dataclass(frozen=True, eq=False)
class Placing:
    """Where a vector was tried on the pairs that it was made of, how many times over, and what came of it."""

    names: tuple[str, ...]
    strengths: tuple[float, ...]
    probs: Float[Tensor, "name strength"]
    """The right answer's probability without examples, mean over the pairs."""

    @property
    def was_chosen(self) -> bool:
        """Whether there was more than one place or strength."""
        return self.probs.numel() > 1

    def best(self, vector: SteeringVector) -> tuple[SteeringVector, float]:
        """Return the vector at the place, and the strength, with which answers are likeliest; the first of equal ones."""
        place, number = divmod(int(self.probs.argmax()), len(self.strengths))
        return replace(vector, name=self.names[place]), self.strengths[number]

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {"names": list(self.names), "strengths": list(self.strengths), "probs": self.probs.tolist()}


@dataclass(frozen=True, eq=False, repr=False)
class FunctionVector(Result):
    """The heads that carry a task, the vector that they make together, and what it does without examples."""

    title: ClassVar[str] = "Function vector"
    source: ClassVar[str] = 'Todd et al. 2024, "Function Vectors in Large Language Models", sections 2 and 3'

    vector: SteeringVector
    heads: tuple[tuple[int, int], ...]
    """The heads whose mean outputs it sums, the largest effect first."""
    effects: Float[Tensor, "layer head"]
    """Average indirect effect: by how much the right answer's probability rises in shuffled prompts."""
    base_prob: float
    """That probability without an edit."""
    n_prompts: int
    n_shots: int
    strength: float
    """How many times the vector was added in the test."""
    n_tested: int
    accuracy: float
    """Share of the pairs kept aside that are answered right without examples."""
    steered_accuracy: float
    """The same with the vector."""
    random_accuracies: tuple[float, ...]
    """The same with random vectors of its length."""
    shots_accuracy: float
    """The same without a vector, after as many examples as it was made with."""
    placing: Placing
    """Where it was tried before that."""

    @property
    def accuracies(self) -> dict[str, float]:
        """Which share of the questions kept aside is answered right, by how they are asked."""
        found = {"as it is": self.accuracy, "with the vector": self.steered_accuracy}
        if self.random_accuracies:
            found["with random vectors"] = sum(self.random_accuracies) / len(self.random_accuracies)
        return found | {f"after {self.n_shots} examples": self.shots_accuracy}

    def summary(self) -> str:
        """Return the heads, and what the vector does."""
        top = ", ".join(f"{head_label(*head)} {float(self.effects[head]):+.3f}" for head in self.heads[:3])
        shares = {name: f"{100 * each:.0f} %" for name, each in self.accuracies.items()}
        chosen = " (chosen on the pairs that it was made of)" if self.placing.was_chosen else ""
        beside = ", ".join(f"{name} {share}" for name, share in shares.items() if name != "with the vector")
        return (
            f"In {self.n_prompts} prompts of {self.n_shots} shuffled examples the right answer has probability {self.base_prob:.3f}; "
            f"the mean outputs of single heads raise it most: {top}. The vector of {len(self.heads)} heads, {self.strength:g} times at "
            f"{self.vector.name}{chosen}, answers {shares['with the vector']} of {self.n_tested} questions kept aside "
            f"({beside})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the vector, every head's effect and the test."""
        return {
            "vector": self.vector.to_dict(),
            "heads": [list(head) for head in self.heads],
            "effects": self.effects.tolist(),
            "base_prob": self.base_prob,
            "n_prompts": self.n_prompts,
            "n_shots": self.n_shots,
            "strength": self.strength,
            "n_tested": self.n_tested,
            "accuracy": self.accuracy,
            "steered_accuracy": self.steered_accuracy,
            "random_accuracies": list(self.random_accuracies),
            "shots_accuracy": self.shots_accuracy,
            "placing": self.placing.to_dict(),
        }

    def figures(self) -> list[Figure]:
        """Return every head's effect as a map, and how many questions are answered right."""
        from cutaway.plots import bars, heatmap

        n_layers, n_heads = self.effects.shape
        rise = float(self.effects.max())  # what heads are chosen by; one that lowers it far more would leave them pale
        return [
            heatmap(
                self.effects.numpy(force=True),
                rows=[f"L{layer}" for layer in range(n_layers)],
                columns=[str(head) for head in range(n_heads)],
                title="Average indirect effect of heads",
                row_title="layer",
                column_title="head",
                label="change of the right answer's probability",
                signed=True,
                limit=rise if rise > 0 else None,
            ),
            bars(
                list(self.accuracies.values()),
                labels=list(self.accuracies),
                title=f"{self.n_tested} questions kept aside",
                label="share answered right",
            ),
            *self._placing_drawn(),
        ]

    def _placing_drawn(self) -> list[Figure]:
        from cutaway.plots import lines

        if len(self.placing.names) < 2:
            return []
        places = list(range(len(self.placing.names)))
        series = {
            f"{strength:g} time{'s' * (strength != 1)}": (places, self.placing.probs[:, number].tolist())
            for number, strength in enumerate(self.placing.strengths)
        }
        title = "The vector after each layer, on the pairs it was made of"
        return [lines(series, title=title, x_label="layer", y_label="probability of the right answer")]

    def views(self) -> list[RenderableType]:
        """Return how many questions are answered right, and the heads with their effects."""
        headers, rows = self.table()
        asked = [[name, f"{100 * share:.0f} %"] for name, share in self.accuracies.items()]
        return [filled_table(["asked", "right"], asked, right=["right"]), filled_table(headers, rows, right=headers[1:])]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the heads with their effects."""
        return ("head", "effect"), [(head_label(*head), f"{float(self.effects[head]):+.4f}") for head in self.heads]
