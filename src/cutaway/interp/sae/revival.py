"""Features that have died brought back: by a loss of their own, or begun anew."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.interp.sae.dictionary import Dictionary, JumpReLU, unit_rows

__all__ = ["auxiliary_loss", "resample"]

_ENCODER_SHARE = 0.2  # of the living encoder columns' mean length (Bricken et al. 2023)


def auxiliary_loss(
    dictionary: Dictionary,
    pre: Float[Tensor, "batch d_sae"],
    error: Float[Tensor, "batch d_out"],
    is_dead: Bool[Tensor, " d_sae"],
) -> Float[Tensor, ""]:
    """Return how badly the dead latents that come nearest to firing predict the error; 0 where none is dead.

    Half as many as there are coordinates. Source: Gao et al. 2024, appendix A.2.
    """
    dead = is_dead.nonzero()[:, 0]
    n = min(len(dead), max(1, dictionary.config.d_in // 2))
    if not n:
        return pre.new_zeros(())
    values, places = pre[:, dead].topk(n, dim=-1, sorted=False)
    latents = torch.zeros_like(pre[:, dead]).scatter(-1, places, values.relu())
    return (error - latents @ dictionary.W_dec[dead]).square().sum() / error.numel()


@torch.no_grad()
def resample(
    dictionary: Dictionary,
    optimizer: torch.optim.Adam,
    is_dead: Bool[Tensor, " d_sae"],
    x: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_out"],
    *,
    generator: torch.Generator,
) -> None:
    """Let dead latents begin anew as rows of a batch, drawn in proportion to their squared loss; Adam forgets what it knew of them.

    The encoder reads the row as it is, a fifth as strongly as the living do in the mean; the decoder gets its error's direction, which
    for an autoencoder of few features is much the same as the row. Source: Bricken et al. 2023, "Neuron Resampling".
    """
    dead = is_dead.nonzero()[:, 0]
    if not len(dead):
        return
    chances = error.square().sum(1).square().double().cpu()
    drawn = torch.multinomial(chances, len(dead), replacement=True, generator=generator).to(x.device)
    read = x[drawn] - dictionary.b_dec if dictionary.config.subtracts_b_dec else x[drawn]
    read, direction = unit_rows(read), unit_rows(error[drawn])
    living = dictionary.W_enc[:, ~is_dead]
    length = living.norm(dim=0).mean() if living.shape[1] else x.new_ones(())
    dictionary.W_dec[dead] = direction
    dictionary.W_enc[:, dead] = (_ENCODER_SHARE * length * read).T
    dictionary.b_enc[dead] = 0
    if isinstance(dictionary, JumpReLU):
        dictionary.threshold[dead] = dictionary.threshold[~is_dead].mean() * _ENCODER_SHARE if living.shape[1] else 0
    for weight, axis in ((dictionary.W_dec, 0), (dictionary.W_enc, 1), (dictionary.b_enc, 0)):
        for part in ("exp_avg", "exp_avg_sq"):
            optimizer.state[weight][part].index_fill_(axis, dead, 0)
