"""Observers: named functions of step and model whose values are logged as training goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cutaway.model import Transformer
from cutaway.runs import LOGGED
from cutaway.runtime import did_you_mean
from cutaway.training.setup import Materials

__all__ = ["Observer", "Watchable", "WEIGHTS", "weight_norms", "observe"]

Observer = Callable[[int, Transformer], Mapping[str, float]]
"""Takes the number of steps done and the model, which it leaves as it is; returns values to log."""


@dataclass(frozen=True)
class Watchable:
    """What a run may watch by name, and how the observers of some names are made for a run: those that read one thing, as one."""

    names: Collection[str]
    make: Callable[[Sequence[str], Materials], Mapping[str, Observer]]

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError for a name that is not known."""
        for name in names:
            if name not in self.names:
                meant = did_you_mean(name, self.names)
                raise ValueError(f"there is no observer {name!r}; {meant}there are {', '.join(self.names)}")


def weight_norms(step: int, model: Transformer) -> dict[str, float]:  # noqa: ARG001
    """Return the Frobenius norm of each kind of matrix, averaged over layers."""
    norms: dict[str, list[float]] = {}
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            matrix = next(part for part in name.split(".") if part.startswith("W_"))
            norms.setdefault(f"norms.{matrix}", []).append(weight.detach().float().norm().item())
    return {name: sum(values) / len(values) for name, values in norms.items()}


WEIGHTS = Watchable(("norms",), lambda names, _: dict.fromkeys(names, weight_norms))
"""What training itself knows to watch, which takes no analysis; `cutaway.train` knows more."""


def observe(step: int, model: Transformer, observers: Mapping[str, Observer]) -> dict[str, float]:
    """Return the values of all observers; raises ValueError for a value that is no number or has a name that another has.

    Of weights that are not finite nothing is observed: the next loss stops such a run.
    """
    if not all(weight.isfinite().all() for weight in model.parameters()):
        return {}
    found: dict[str, float] = {}
    for observer_name, observer in observers.items():
        for name, value in observer(step, model).items():
            if name in LOGGED or name in found:
                whose = "what training itself logs" if name in LOGGED else "what another observer does"
                raise ValueError(f"the observer {observer_name!r} calls a value {name!r}, as {whose}: give it a name of its own")
            try:
                found[name] = float(value.detach() if isinstance(value, Tensor) else value)
            except (TypeError, ValueError, RuntimeError):  # the last is a tensor's
                raise ValueError(
                    f"the observer {observer_name!r} returned {type(value).__name__} for {name!r}; expected a number"
                ) from None
    return found
