"""How faithful a circuit is under one ablation: the metric of circuit, model and empty circuit row by row, and what follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.bootstrap import FEWEST_ROWS, N_RESAMPLES, Interval, interval_of, ratio_interval, resampled_means
from cutaway.interp.tensors import finite_or_none
from cutaway.runtime import seeded_generator

__all__ = ["LEAST_GAP", "Endpoints", "Faithfulness", "Subset", "UnitEffect"]

LEAST_GAP = 0.1
"""The least difference of the metric between model and empty circuit that a faithfulness is divided by."""


class Subset(NamedTuple):
    """Random parts of a circuit taken out, of it and of the model."""

    n_edges: int
    """How many edges were taken out of the circuit."""
    circuit: float
    """The metric's mean of the circuit without them."""
    model: float
    """The metric's mean of the model without them."""

    @property
    def incompleteness(self) -> float:
        """`|F(C without K) - F(M without K)|`."""
        return abs(self.circuit - self.model)


class UnitEffect(NamedTuple):
    """The metric's mean of the circuit without one node or edge less that with it."""

    unit: str
    effect: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Endpoints:
    """What a faithfulness lies between: the metric of the empty circuit, with everything ablated, and of the model, row by row."""

    how: How
    said: str
    """What is put in the place of what is ablated, in words."""
    model: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]
    least_gap: float = LEAST_GAP
    n_resamples: int = N_RESAMPLES
    seed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not self.least_gap >= 0:
            raise ValueError(f"least_gap is {self.least_gap}; expected at least 0, what the metric differs by at least")

    @property
    def gap(self) -> float:
        """`F(M) - F(empty)`, of the means."""
        return float(self.model.double().mean() - self.empty.double().mean())

    @property
    def refusal(self) -> str | None:
        """Why nothing is divided by the gap; None where it is wide enough."""
        if abs(self.gap) >= self.least_gap and self.gap != 0:
            return None
        if self.gap == 0:
            return (
                f"under {self.how} ablation model and empty circuit do not differ, so no faithfulness is a share of that: take another "
                "ablation, metric or prompts"
            )
        return (
            f"under {self.how} ablation model and empty circuit differ by {abs(self.gap):.3g}, less than {self.least_gap:g}, so no "
            "faithfulness is a share of it (--least-gap or least_gap sets the limit, in the metric's units)"
        )

    @property
    def no_interval(self) -> str | None:
        """Why shares have no interval over prompt pairs; None where they have."""
        if self.refusal:
            return self.refusal
        if (n := len(self.model)) < FEWEST_ROWS:
            return f"{n} pair{'s' * (n > 1)} give{'s' * (n == 1)} no interval: {FEWEST_ROWS} are needed at least"
        gaps = self.model.double() - self.empty.double()
        low, high = interval_of(resampled_means(gaps, n_resamples=self.n_resamples, generator=seeded_generator(self.seed)))
        if not low <= 0 <= high:
            return None
        return (
            f"under {self.how} ablation the difference between model and empty circuit may be 0 (95 % interval {low:.3g} to "
            f"{high:.3g}), so shares of it have no interval: give more pairs, or another metric"
        )

    def shares_of(self, rows: Float[Tensor, "*some batch"]) -> Float[Tensor, "*some"]:
        """Return where the means of some rows lie between empty circuit (0) and model (1); NaN where it is refused."""
        if self.refusal:
            return torch.full(rows.shape[:-1], torch.nan, dtype=torch.float64)
        return (rows.double().mean(-1) - self.empty.double().mean()) / self.gap


@dataclass(frozen=True, kw_only=True, eq=False)
class Faithfulness(Endpoints):
    """A metric under one ablation: of the circuit, of the model and of the empty circuit."""

    circuit: Float[Tensor, " batch"]
    random: Float[Tensor, "random batch"] | None = None
    """Of random connected circuits with as many edges into each layer."""
    subsets: tuple[Subset, ...] = ()
    units: tuple[UnitEffect, ...] = ()
    """Of every node or edge of the circuit."""

    @property
    def normalised(self) -> float | None:
        """`(F(C) - F(empty)) / (F(M) - F(empty))`, a ratio of means, below 0 and above 1 as it comes; None where it is refused.

        Source: Marks et al. 2024, "Sparse Feature Circuits"; Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark".
        """
        return None if self.refusal else float(self.shares_of(self.circuit))

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the normalised faithfulness over prompt pairs; None where it is refused, as `no_interval` says."""
        if self.no_interval:
            return None
        return ratio_interval(
            self.circuit - self.empty, self.model - self.empty, n_resamples=self.n_resamples, generator=seeded_generator(self.seed)
        )

    @property
    def difference(self) -> float:
        """`|F(M) - F(C)|`, of the means: what Wang et al. 2022 call faithfulness; 0 is best."""
        return float((self.model.mean() - self.circuit.mean()).abs())

    @property
    def random_shares(self) -> list[float]:
        """The normalised faithfulness of each random circuit."""
        return [] if self.random is None or self.refusal else self.shares_of(self.random).tolist()

    @property
    def n_random_further(self) -> int:
        """How many random circuits are further from the model than the circuit is."""
        if self.random is None:
            return 0
        return int(((self.random.mean(-1) - self.model.mean()).abs() > self.difference).sum())

    @property
    def incompleteness(self) -> float:
        """The largest `|F(C without K) - F(M without K)|` over the parts that were tried; NaN where none was."""
        return max((each.incompleteness for each in self.subsets), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the rows and what follows from them as values that JSON can hold."""
        return {
            "ablation": self.how,
            "replacement": self.said,
            "circuit": self.circuit.tolist(),
            "model": self.model.tolist(),
            "empty": self.empty.tolist(),
            "mean": {name: float(getattr(self, name).mean()) for name in ("circuit", "model", "empty")},
            "faithfulness": self.normalised,
            "interval": None if self.interval is None else list(self.interval),
            "refused": self.refusal,
            "no_interval": self.no_interval,
            "least_gap": self.least_gap,
            "difference_from_model": self.difference,
            "random": None if self.random is None else self.random.tolist(),
            "random_faithfulness": self.random_shares,
            "n_random_further_from_model": self.n_random_further,
            "subsets": [each._asdict() | {"incompleteness": each.incompleteness} for each in self.subsets],
            "incompleteness": finite_or_none(self.incompleteness),
            "units": [each._asdict() for each in self.units],
        }
