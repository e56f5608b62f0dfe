"""Where a record comes from: a plain run of some tokens, and whether weights and record are still as they then were.

Changes are those that torch counts, in place and by any view; what is written through `.data` or numpy it does not see.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.model import Transformer
from cutaway.views import original

__all__ = ["PlainRun", "Provenance", "Weights", "n_changes"]


@dataclass(frozen=True)
class Weights:
    """A model's weights as they were at some time; equal to those of another time if nobody changed them in between."""

    model: Transformer
    """The model itself, where they are seen through a view of it."""
    n_changes: int | None
    """How often they were changed in place; None for weights made under inference mode, which do not count it."""

    @classmethod
    def of(cls, model: Transformer) -> Weights:
        """Return a model's weights as they are now."""
        each = [n_changes(weight) for weight in model.parameters()]
        counts = [n for n in each if n is not None]
        return cls(original(model), sum(counts) if len(counts) == len(each) else None)


@dataclass(frozen=True, eq=False)
class PlainRun:
    """An unedited run without dropout."""

    tokens: Int[Tensor, "batch pos"]
    """A copy: whoever changes their own tensor afterwards changes nothing here."""
    weights: Weights

    @classmethod
    def of(cls, model: Transformer, tokens: Int[Tensor, "batch pos"]) -> PlainRun | None:
        """Return a run that is about to be made; None where it could not be repeated: dropout, weights that count no changes."""
        weights = Weights.of(model)
        if weights.n_changes is None or (model.training and model.config.dropout > 0):
            return None
        return cls(tokens.clone(), weights)


@dataclass(frozen=True, eq=False)
class Provenance:
    """That a value is what a plain run computed, each position at its own place."""

    run: PlainRun
    n_changes: int | None
    """How often the value had been changed in place when this was so."""

    def holds(self, value: Float[Tensor, "..."] | None, weights: Weights) -> bool:
        """Return whether the value is untouched, and `weights` would compute it again."""
        now = None if value is None else n_changes(value)
        return now is not None and now == self.n_changes and self.run.weights == weights


def n_changes(x: Tensor) -> int | None:
    """Return how often a tensor was changed in place; None for one made under inference mode, which does not count it."""
    return None if x.is_inference() else x._version
