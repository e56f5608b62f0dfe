"""What activations are multiplied with for training: mean squared lengths become the number of coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.sae.activations import ActivationSource
from cutaway.interp.sae.shape import DictionaryConfig

__all__ = ["Scales", "first_rows", "measure_scales"]

_N_BATCHES = 8


@dataclass(frozen=True, eq=False)
class Scales:
    """A factor for each coordinate that is read and predicted, one a model, and how long a row may be."""

    shape: DictionaryConfig
    read: Float[Tensor, " d_in"]
    predicted: Float[Tensor, " d_out"]
    mean: Float[Tensor, " d_out"]
    """Of what is predicted, unscaled."""
    longest: float | None
    """Of what is read, unscaled; longer rows are left out."""

    def to(self, device: torch.device) -> Scales:
        """Return the same on a device."""
        return replace(self, read=self.read.to(device), predicted=self.predicted.to(device), mean=self.mean.to(device))

    def kept(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "kept d"]:
        """Return the rows that are not too long."""
        return rows if self.longest is None else rows[rows[:, : self.shape.d_in].norm(dim=1) <= self.longest]

    def split(self, rows: Float[Tensor, "row d"]) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_out"]]:
        """Return what is read and what is predicted, scaled."""
        x = rows[:, : self.shape.d_in] * self.read
        return x, rows[:, self.shape.d_in :] * self.predicted if self.shape.is_transcoder else x

    def of_models(self) -> list[float]:
        """Return the factor of what is predicted, for each model."""
        factors: list[float] = self.predicted.unflatten(0, (self.shape.n_models, -1))[:, 0].tolist()
        return factors


def first_rows(source: ActivationSource, *, batch_size: int, seed: int, n_batches: int = _N_BATCHES) -> Float[Tensor, "row d"]:
    """Return the rows of a source's first batches, from which scales are measured; raises ValueError where there are none."""
    first = [batch.flatten(1).float() for batch in islice(source.batches(batch_size, seed=seed), n_batches)]
    rows = torch.cat(first or [torch.empty(0, 0)])
    if not len(rows):
        raise ValueError("there are no activations to train on: the source gave no rows")
    return rows


def measure_scales(shape: DictionaryConfig, rows: Float[Tensor, "row d"], *, max_norm: float | None) -> Scales:
    """Return scales from some rows; raises ValueError for rows of another width, or that are not finite."""
    if rows.shape[1] != shape.d_row:
        what = f"{shape.d_in} to read and {shape.d_out} to predict" if shape.is_transcoder else f"{shape.d_in}"
        raise ValueError(
            f"the activations have {rows.shape[1]} coordinates and the dictionary is for {what}: give the ones it is for"
        )
    if not bool(rows.isfinite().all()):
        raise ValueError("the activations are not all finite: there is NaN or infinity among them")
    longest = None
    if max_norm is not None:
        norms = rows[:, : shape.d_in].norm(dim=1)
        longest = max_norm * norms.median().item()
        rows = rows[norms <= longest]
    y = rows[:, -shape.d_out :]
    read, predicted = _factors(rows[:, : shape.d_in], shape.n_models), _factors(y, shape.n_models)
    return Scales(shape, read, predicted, y.mean(0), longest)


def _factors(x: Float[Tensor, "row d"], n_models: int) -> Float[Tensor, " d"]:
    """Return for each coordinate what makes the mean square of its model's activations 1."""
    squares = x.square().mean(0).unflatten(0, (n_models, -1))
    factors: Tensor = squares.mean(1).clamp_min(torch.finfo(x.dtype).tiny).rsqrt()
    return factors.repeat_interleave(squares.shape[1])
