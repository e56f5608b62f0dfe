"""Observers: named functions of step and model whose values are logged as training goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cutaway.model import Transformer

__all__ = ["Observer", "OBSERVERS", "weight_norms", "resolve_observers"]

Observer = Callable[[int, Transformer], Mapping[str, float]]
"""Takes the number of steps done and the model, which it leaves as it is; returns values to log."""


def weight_norms(step: int, model: Transformer) -> dict[str, float]:  # noqa: ARG001
    """Return the Frobenius norm of each kind of matrix, averaged over layers."""
    norms: dict[str, list[float]] = {}
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            matrix = next(part for part in name.split(".") if part.startswith("W_"))
            norms.setdefault(f"norm_{matrix}", []).append(weight.detach().float().norm().item())
    return {name: sum(values) / len(values) for name, values in norms.items()}


OBSERVERS: dict[str, Observer] = {"norms": weight_norms}
"""What `watch` and `--watch` know by name."""


def resolve_observers(names: Iterable[str]) -> dict[str, Observer]:
    """Return the observers of these names; raises ValueError for one that is not known."""
    names = list(names)
    if unknown := [name for name in names if name not in OBSERVERS]:
        raise ValueError(f"there is no observer {', '.join(map(repr, unknown))}; there are {', '.join(OBSERVERS)}")
    return {name: OBSERVERS[name] for name in names}
