"""What makes one dictionary differ from another: its kind, its sizes, what it reads and what it predicts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from cutaway.hooks import canonical_name
from cutaway.interp.training_data import TrainingData

__all__ = ["DictionaryConfig", "Kind"]

Kind = Literal["relu", "topk", "batchtopk", "jumprelu"]
"""How latents are kept few: by their sum, the k largest of a row, of a batch, or a threshold each."""


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """The shape of a dictionary, and the activations that it is for; raises ValueError for what does not go together."""

    kind: Kind = "topk"
    d_in: int
    """Coordinates of what is read; of all models together where there are several."""
    d_sae: int
    """How many latents."""
    name: str = ""
    """The activation that is read."""
    target: str | None = None
    """The activation that is predicted, where that is another: a transcoder's."""
    d_out: int = 0
    """Coordinates of what is predicted; as many as are read unless given."""
    k: int | None = None
    """Latents of a row, in the mean for batchtopk; the kinds without k have a penalty instead."""
    has_skip: bool = False
    """Whether a linear map goes past the latents (Paulo et al. 2025)."""
    n_models: int = 1
    """Models whose activations stand side by side in a row: a crosscoder's."""
    subtracts_b_dec: bool | None = None
    """Whether the encoder reads `x - b_dec`; as it does unless given, except where what is predicted is something else."""
    bandwidth: float = 0.5
    """How wide about its threshold JumpReLU lets gradients through while it is trained, where `|x|^2` is `d_in` in the mean."""
    model_sha256: str | None = None
    """That of the model it was trained on (`weights.model_sha256`), where that is known."""
    model: str = ""
    """What that model is called, where that is known."""
    trained_on: TrainingData | None = None
    """The text it learned from, and which part of that was held out, where that is known."""
    scales: tuple[float, ...] | None = None
    """What each model's activations were multiplied with while a crosscoder was trained: training fills them in."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"there is no dictionary of kind {self.kind!r}; give one of {', '.join(get_args(Kind))}")
        object.__setattr__(self, "name", canonical_name(self.name))
        object.__setattr__(self, "target", None if self.target is None else canonical_name(self.target))
        object.__setattr__(self, "d_out", self.d_out or self.d_in)
        if self.subtracts_b_dec is None:
            object.__setattr__(self, "subtracts_b_dec", not self.is_transcoder)
        for each in ("d_in", "d_sae", "d_out", "n_models"):
            if getattr(self, each) < 1:
                raise ValueError(f"{each} is {getattr(self, each)}; expected at least 1")
        if (self.kind in ("topk", "batchtopk")) != (self.k is not None):
            wants = "needs k, how many latents a row has" if self.k is None else "has no k: leave it out"
            raise ValueError(f"a dictionary of kind {self.kind!r} {wants}")
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k is {self.k}; expected 1 to {self.d_sae}, the number of latents")
        if self.bandwidth <= 0:
            raise ValueError(f"bandwidth is {self.bandwidth}; expected more than 0")
        if self.scales is not None and (
            len(self.scales) != self.n_models or not all(0 < scale < math.inf for scale in self.scales)
        ):
            raise ValueError(f"scales are {list(self.scales)}; expected a number above 0 for each model, {self.n_models}")
        self._check_target()

    def _check_target(self) -> None:
        if self.d_out != self.d_in and not self.is_transcoder:
            raise ValueError(f"d_out is {self.d_out} and d_in {self.d_in}: name the target that has another width")
        if self.has_skip and not self.is_transcoder:
            raise ValueError("a linear skip would copy what an autoencoder reads: it is for a transcoder, so name its target")
        if self.subtracts_b_dec and (self.d_out != self.d_in or self.is_transcoder):
            raise ValueError("only what predicts its own input can take b_dec off it: leave out subtracts_b_dec")
        if self.d_in % self.n_models or (self.n_models > 1 and self.is_transcoder):
            raise ValueError(
                f"a crosscoder of {self.n_models} models reads {self.n_models} activations of one width and predicts them all: "
                f"d_in is {self.d_in}, target {self.target}"
            )

    @property
    def is_transcoder(self) -> bool:
        """Whether it predicts another activation than it reads."""
        return self.target is not None and self.target != self.name

    @property
    def d_row(self) -> int:
        """Coordinates of a row to train on: what is read, and after it what is predicted where that is something else."""
        return self.d_in + self.d_out * self.is_transcoder

    @property
    def row_names(self) -> tuple[str, ...]:
        """The activations of a row to train on: what is read, and after it what is predicted where that is something else."""
        return (self.name, self.target) if self.target is not None and self.is_transcoder else (self.name,)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold; a name of the model that is not known is left out."""
        return {name: value for name, value in asdict(self).items() if name != "model" or value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DictionaryConfig:
        """Return what `to_dict` wrote; raises ValueError for fields that are not there."""
        if unknown := values.keys() - {each.name for each in fields(cls)}:
            raise ValueError(f"a dictionary has no field {', '.join(sorted(unknown))}")
        scales, data = values.get("scales"), values.get("trained_on")
        known = {
            "scales": None if scales is None else tuple(scales),
            "trained_on": None if data is None else TrainingData.from_dict(data),
        }
        return cls(**{**values, **known})
