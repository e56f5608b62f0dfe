"""How well activations are predicted, and from how many latents, beside principal components of as many dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.sae.dictionary import Dictionary, check_mode
from cutaway.runtime import seeded_generator

__all__ = ["Reconstruction", "measure_reconstruction", "pca_fvu", "random_features"]

_N_ROWS = 4096  # encoded at once


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Sums over rows, from which everything is said."""

    n_rows: int
    squared_error: float
    variance: float
    """The squared distance of all rows from their mean."""
    covariance: Float[Tensor, "d_out d_out"]
    """Of what is predicted, over the rows."""
    n_fired: Int[Tensor, " d_sae"]
    """In how many rows each latent is above zero."""

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained."""
        return self.squared_error / self.variance

    @property
    def l0(self) -> float:
        """Latents above zero in a row, in the mean."""
        return self.n_fired.sum().item() / self.n_rows

    @property
    def dead(self) -> float:
        """The share of latents that never fired on these rows."""
        return (self.n_fired == 0).float().mean().item()

    @property
    def density(self) -> Float[Tensor, " d_sae"]:
        """In which share of the rows each latent is above zero."""
        return self.n_fired / self.n_rows

    @property
    def pca_fvu(self) -> float:
        """The variance that as many principal components as there are latents a row leave unexplained, fitted to these very rows."""
        return pca_fvu(self.covariance, self.l0)


@torch.no_grad()
def measure_reconstruction(dictionary: Dictionary, batches: Iterable[Float[Tensor, "_ d"]]) -> Reconstruction:
    """Return how well rows are predicted; those of a transcoder are what it reads and after it what it predicts.

    Means and covariances are summed in float64. Raises ValueError for a batchtopk in training mode, for no rows, for rows of another
    width, and for rows that are all the same.
    """
    config = dictionary.config
    check_mode(dictionary)
    device, dtype = dictionary.W_enc.device, dictionary.W_enc.dtype
    n_rows, squared_error = 0, 0.0
    n_fired = torch.zeros(config.d_sae, dtype=torch.long, device=device)
    total = torch.zeros(config.d_out, dtype=torch.float64, device=device)
    products = torch.zeros(config.d_out, config.d_out, dtype=torch.float64, device=device)
    for rows in (part for batch in batches for part in batch.split(_N_ROWS)):
        if rows.shape[1] != config.d_row:
            raise ValueError(f"the activations have {rows.shape[1]} coordinates and the dictionary is for {config.d_row}")
        rows = rows.to(device=device, dtype=dtype)
        x, y = rows[:, : config.d_in], rows[:, -config.d_out :]
        latents = dictionary.encode(x)
        squared_error += (y - dictionary.reconstruct(x, latents)).double().square().sum().item()
        n_fired += (latents > 0).sum(0)
        wide = y.double()
        total += wide.sum(0)
        products += wide.T @ wide
        n_rows += len(rows)
    if not n_rows:
        raise ValueError("there are no activations to measure on: the source gave no rows")
    covariance = products / n_rows - torch.outer(total, total) / n_rows**2
    if not covariance.trace() > 0:
        raise ValueError("the activations are the same in all rows: there is no variance to explain")
    return Reconstruction(n_rows, squared_error, n_rows * covariance.trace().item(), covariance, n_fired)


def pca_fvu(covariance: Float[Tensor, "d d"], rank: float) -> float:
    """Return the fraction of variance that the best linear map of a rank leaves; between two whole ranks it is interpolated."""
    variances = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
    kept = torch.cat([variances.new_zeros(1), variances.cumsum(0)])
    low = min(int(rank), len(variances))
    high = min(low + 1, len(variances))
    explained = torch.lerp(kept[low], kept[high], rank - int(rank))
    return 1 - (explained / kept[-1]).item()


def random_features(density: Float[Tensor, " d_sae"], n: int, *, seed: int) -> Sequence[int]:
    """Return so many features that fire at all, drawn at random, in the order of their numbers; fewer where there are fewer."""
    live = density.nonzero()[:, 0].cpu()
    drawn = live[torch.randperm(len(live), generator=seeded_generator(seed))[:n]]
    return sorted(drawn.tolist())
