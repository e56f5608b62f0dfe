"""A model's parameters counted by component, from its configuration alone: shapes on the meta device weigh nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cutaway.config import ModelConfig

__all__ = ["Parameter", "count_parameters", "COMPONENTS"]

COMPONENTS = ("embedding", "attention", "MLP", "norms", "unembedding")
"""The parts that parameters are counted by, in the order of the computation."""


@dataclass(frozen=True)
class Parameter:
    """A parameter that one place of the model has, or every layer alike: its shape there, and in how many places it is.

    One that is tied is another parameter seen again, and counts nothing.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    n_places: int = 1
    tied_to: str | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds in all its places."""
        return 0 if self.tied_to else self.n_places * math.prod(self.shape)


def count_parameters(config: ModelConfig) -> list[Parameter]:
    """Return every parameter, layers together, grouped by `COMPONENTS`.

    >>> sum(parameter.count for parameter in count_parameters(ModelConfig.preset("gpt2")))
    124439808
    """
    found: dict[str, Parameter] = {}
    for name, shape, tied_to in _named_shapes(config):
        short = ".".join(part for part in name.split(".")[-3:] if part not in _SILENT and not part.isdigit())
        key = f"{_component(name)} {short}"
        before = found.get(key)
        n_places = 1 if before is None else before.n_places + 1
        found[key] = Parameter(_component(name), short, shape, n_places, tied_to)
    return sorted(found.values(), key=lambda parameter: COMPONENTS.index(parameter.component))


_SILENT = {"blocks", "attn", "mlp", "embed", "unembed", "pos_embed", "qk_positions", "weight"}


def _named_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], str | None]]:
    """Yield each parameter's name and shape, and the name of the one that it is tied to."""
    from cutaway.weights import parameter_shapes

    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        yield name, tuple(shape), None
    if config.tie_embeddings:
        yield "unembed.W_U.weight", tuple(shapes["embed.W_E"]), "W_E"


def _component(name: str) -> str:
    parts = set(name.split("."))
    if not parts.isdisjoint({"ln1", "ln2", "ln_final"}):
        return "norms"
    if "attn" in parts:
        return "attention"
    if "mlp" in parts:
        return "MLP"
    return "unembedding" if "unembed" in parts else "embedding"
