"""Probes as values: what reads a label from an activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cutaway.interp.probing.task import Label

__all__ = ["Probe", "LinearProbe", "MLPProbe"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe(ABC):
    """A function from activations to classes, or to a number."""

    kind: str
    """What made it: logistic, mean-difference, ridge, mlp."""
    classes: tuple[Label, ...]
    """The classes in order; none where it predicts a number."""
    name: str = ""
    """The activation that it reads, `blocks.3.resid_post`."""
    pos: int | None = None
    """The position that it reads; None for every token."""

    @property
    @abstractmethod
    def d(self) -> int:
        """How many coordinates it reads."""

    @abstractmethod
    def scores(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row score"]:
        """Return a score for each class, the highest being the one that it reads, or the number that it predicts."""

    def predict(self, x: Float[Tensor, "row d"]) -> Shaped[Tensor, " row"]:
        """Return the number of the class that each row is read as, or the predicted number."""
        scores = self.scores(x)
        return scores.argmax(dim=1) if self.classes else scores[:, 0]

    def read(self, x: Float[Tensor, "row d"]) -> list[Label]:
        """Return the label that each row is read as."""
        found: list[int | float] = self.predict(x).tolist()
        return [self.classes[int(place)] for place in found] if self.classes else list(found)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LinearProbe(Probe):
    """Scores `W x + b` of the activation as it is: what it was standardised with is in W and b."""

    W: Float[Tensor, "score d"]
    b: Float[Tensor, " score"]
    means: Float[Tensor, "class d"]
    """The mean activation of each class it was fitted on; no rows for numbers."""

    def __repr__(self) -> str:
        where = f" of {self.name}" if self.name else ""
        return f"LinearProbe({self.kind}{where}, {' | '.join(map(str, self.classes)) or 'a number'}, d {self.d})"

    @property
    def d(self) -> int:
        """How many coordinates it reads."""
        return self.W.shape[1]

    def scores(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row score"]:
        """Return `W x + b` of each row."""
        return x.to(self.W) @ self.W.T + self.b

    @property
    def direction(self) -> Float[Tensor, " d"]:
        """The unit vector along which it reads: from the first class to the second, or towards larger numbers.

        Raises ValueError for more than two classes, which have a direction for each two (`between`).
        """
        if not self.classes:
            along: Tensor = self.W[0] / self.W[0].norm()
            return along
        if len(self.classes) > 2:
            raise ValueError(f"the probe tells {len(self.classes)} classes apart: name two of them, between(a, b)")
        return self.between(*self.classes)

    def between(self, a: Label, b: Label) -> Float[Tensor, " d"]:
        """Return the unit vector along which it reads `b` rather than `a`; raises ValueError for what is none of its classes."""
        if unknown := [label for label in (a, b) if label not in self.classes]:
            raise ValueError(f"{unknown[0]!r} is no class of this probe; its classes are {', '.join(map(repr, self.classes))}")
        difference: Tensor = self.W[self.classes.index(b)] - self.W[self.classes.index(a)]
        unit: Tensor = difference / difference.norm()
        return unit


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MLPProbe(Probe):
    """Scores of one hidden layer, `W_out relu(W_in x + b_in) + b_out`, of the activation as it is. It has no direction."""

    W_in: Float[Tensor, "hidden d"]
    b_in: Float[Tensor, " hidden"]
    W_out: Float[Tensor, "score hidden"]
    b_out: Float[Tensor, " score"]

    def __repr__(self) -> str:
        return f"MLPProbe({self.name or 'rows'}, {len(self.W_in)} hidden units, d {self.d})"

    @property
    def d(self) -> int:
        """How many coordinates it reads."""
        return self.W_in.shape[1]

    def scores(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row score"]:
        """Return what the hidden layer says of each row."""
        hidden = torch.relu(x.to(self.W_in) @ self.W_in.T + self.b_in)
        return hidden @ self.W_out.T + self.b_out
