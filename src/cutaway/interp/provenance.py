"""Where a record comes from: a plain run of these tokens by this model, as its weights then were."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from cutaway.model import Transformer

__all__ = ["Provenance", "provenance_of"]


@dataclass(frozen=True, eq=False)
class Provenance:
    """An unedited run without dropout; what is known of it holds as long as the model's weights are untouched."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    """A copy: whoever changes their own tensor afterwards changes nothing here."""
    version: int

    def is_of(self, model: Transformer) -> bool:
        """Return whether `model` would compute the same again."""
        return self.model is model and self.version == _version(model)


def provenance_of(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> Provenance | None:
    """Return the provenance of an unedited run; None where it could not be repeated: dropout, weights that count no changes."""
    if model.training and model.config.dropout > 0:
        return None
    version = _version(model)
    return None if version is None else Provenance(model, tokens.clone(), version)


def _version(model: Transformer) -> int | None:
    """Return how often the weights were changed in place; None for weights made under inference mode, which do not count it."""
    weights = list(model.parameters())
    if any(weight.is_inference() for weight in weights):
        return None
    return sum(weight._version for weight in weights)
