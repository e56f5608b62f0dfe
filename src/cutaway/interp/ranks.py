"""How far two rankings of the same things agree, and estimates of effects with the effects themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["EffectAgreement", "compare_effects", "rank_correlation"]

_Part = TypeVar("_Part")
"""What has an effect: a node, an edge."""

_ROUNDING = 64
"""Effects below so many units in the last place of the metric are taken for nothing, as they may be rounding."""
_N_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class EffectAgreement(Generic[_Part]):
    """How estimates agree with the exact effects of those parts that were tried."""

    n_tried: int
    rank_correlation: float | None
    """Spearman's, of the sizes of the effects, among parts that have one by either account; None where no two differ."""
    false_positives: tuple[_Part, ...]
    """Those that move the metric by the threshold or more by their estimate alone."""
    misses: tuple[_Part, ...]
    """Those that do so by their exact effect alone; where not all were tried, there may be more."""
    wrong_sign: tuple[_Part, ...]
    """Those that move the metric by the threshold or more, by either account, and by the estimate the other way."""

    def said(self, name: Callable[[_Part], str] = str) -> str:
        """Return the correlation, and how many parts disagree in each way, with the names of the first of them."""
        correlation = "" if self.rank_correlation is None else f"rank correlation of sizes {self.rank_correlation:.2f}, "
        wrong = {"false positive": self.false_positives, "miss": self.misses, "wrong sign": self.wrong_sign}
        return correlation + ", ".join(_counted(list(map(name, parts)), what) for what, parts in wrong.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, and the names of the parts that disagree."""
        return {
            "n_tried": self.n_tried,
            "rank_correlation": self.rank_correlation,
            **{name: list(map(str, getattr(self, name))) for name in ("false_positives", "misses", "wrong_sign")},
        }


def compare_effects(
    tried: Sequence[tuple[_Part, float, float]], *, base: Float[Tensor, " batch"], other: Float[Tensor, " batch"], threshold: float
) -> EffectAgreement[_Part]:
    """Return how parts' estimates, given first, agree with their exact effects.

    `base` and `other` are the metric of two runs: an effect counts from `threshold` of the difference of their means on, and is taken
    for none where it may be rounding.
    """
    least = threshold * abs((other.mean() - base.mean()).item())
    noise = _ROUNDING * torch.finfo(base.dtype).eps * max(base.abs().max().item(), other.abs().max().item())
    return EffectAgreement(
        n_tried=len(tried),
        rank_correlation=rank_correlation(*_sizes(tried, noise)),
        false_positives=tuple(part for part, estimate, exact in tried if abs(estimate) >= least > abs(exact)),
        misses=tuple(part for part, estimate, exact in tried if abs(exact) >= least > abs(estimate)),
        wrong_sign=tuple(
            part
            for part, estimate, exact in tried
            if estimate * exact < 0 and max(abs(estimate), abs(exact)) >= least and min(abs(estimate), abs(exact)) > noise
        ),
    )


def rank_correlation(
    one: Sequence[float] | Float[Tensor, " value"], other: Sequence[float] | Float[Tensor, " value"]
) -> float | None:
    """Return Spearman's rank correlation, equal values sharing their mean rank; None where either has no two different values."""
    values = torch.stack([torch.as_tensor(each, dtype=torch.float64, device="cpu") for each in (one, other)])
    if any(len(each.unique()) < 2 for each in values):
        return None
    return torch.corrcoef(torch.stack([_ranks(each) for each in values]))[0, 1].item()


def _ranks(x: Float[Tensor, " value"]) -> Float[Tensor, " value"]:
    _, group, count = torch.unique(x, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    ranks: Tensor = last - (count - 1) / 2
    return ranks[group]


def _sizes(tried: Sequence[tuple[_Part, float, float]], noise: float) -> tuple[list[float], list[float]]:
    """Return the sizes of both, those of rounding as 0, without the parts that have no effect by either."""
    sizes = [[abs(each) if abs(each) > noise else 0.0 for each in pair] for _, *pair in tried]
    return [estimate for estimate, exact in sizes if estimate or exact], [exact for estimate, exact in sizes if estimate or exact]


def _counted(names: Sequence[str], what: str) -> str:
    plural = "" if len(names) == 1 else "es" if what.endswith("s") else "s"
    shown = [*names[:_N_NAMED], *(["..."] if len(names) > _N_NAMED else [])]
    return f"{len(names)} {what}{plural}" + (f" ({', '.join(shown)})" if names else "")
