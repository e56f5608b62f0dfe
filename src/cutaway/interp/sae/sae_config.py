"""How a dictionary is trained, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.interp.sae.shape import DictionaryConfig

__all__ = ["SAEConfig"]

_DEAD_AFTER = 100_000


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """How a dictionary is trained; raises ValueError for numbers out of range.

    The loss is `|y - y_hat|^2 / d_out + sparsity * penalty`, on activations scaled so that `|y|^2` is `d_out` in the mean. The penalty
    of `relu` is the latents' sum over `sqrt(d_out)`, of `jumprelu` their number.
    """

    dictionary: DictionaryConfig
    n_steps: int = 2000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    sparsity: float = 0.0
    """What the penalty is multiplied with; the kinds with k have none."""
    warm_up: float = 0.05
    """The share of the steps over which the learning rate rises from 0, and the penalty with it."""
    decay: float = 0.2
    """The share of the steps, the last ones, over which the learning rate falls to 0."""
    dead_after: int | None = None
    """In so many rows without firing once a latent is dead; in a tenth of all there are, 100,000 at most, unless given."""
    auxiliary: float = 1 / 32
    """What the loss of the dead latents is multiplied with, in the kinds with k (Gao et al. 2024, appendix A.2)."""
    resample_at: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """After which shares of the steps dead latents begin anew, in the kinds with a penalty (Bricken et al. 2023)."""
    max_norm: float | None = 10.0
    """Rows longer than so many times the median are left out, as a first position's are; None keeps all."""
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dead_after is None:
            object.__setattr__(self, "dead_after", max(1, min(_DEAD_AFTER, self.n_steps * self.batch_size // 10)))
        for name in ("n_steps", "batch_size", "learning_rate", "dead_after", "log_every"):
            if not getattr(self, name) > 0:
                said = {"n_steps": "the number of steps"}.get(name, name)
                raise ValueError(f"{said} is {getattr(self, name)}; expected more than 0")
        for name in ("warm_up", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share of the steps, at least 0 and less than 1")
        if self.sparsity < 0 or (self.sparsity > 0 and self.dictionary.k is not None):
            why = "k says how many latents there are" if self.dictionary.k else "expected at least 0"
            raise ValueError(f"sparsity is {self.sparsity:g}: {why}")
        if self.dictionary.k is None and self.sparsity == 0:
            raise ValueError(f"a dictionary of kind {self.dictionary.kind!r} needs sparsity, what its penalty is multiplied with")
        if self.max_norm is not None and self.max_norm <= 1:
            raise ValueError(f"max_norm is {self.max_norm}; expected more than 1 times the median, or None")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = (step + 1) / max(self.warm_up * self.n_steps, 1)
        falling = (self.n_steps - step) / max(self.decay * self.n_steps, 1)
        return self.learning_rate * min(1.0, rising, falling)

    def resamples_at(self, step: int) -> bool:
        """Whether dead latents begin anew after so many steps."""
        return self.dictionary.k is None and step in {round(share * self.n_steps) for share in self.resample_at}

    def are_dead(self, n_since: Int[Tensor, " d_sae"]) -> Bool[Tensor, " d_sae"]:
        """Return which latents are dead, given the rows since each fired."""
        assert self.dead_after is not None  # filled in above
        return n_since >= self.dead_after

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self) | {"dictionary": self.dictionary.to_dict()}
