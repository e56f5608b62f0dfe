"""Dictionaries: an activation as a sum of few of many directions, and the ways to choose which.

`latents = f(x W_enc + b_enc)` and `x = latents W_dec + b_dec`. The kinds differ in `f` and in what training adds to the loss. What they
predict may be their input (a sparse autoencoder), another activation (a transcoder), or several models' at once (a crosscoder).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.interp.sae.shape import DictionaryConfig, Kind

__all__ = ["Dictionary", "unit_rows", "ReLU", "TopK", "BatchTopK", "JumpReLU", "check_mode", "make_dictionary"]

_N_AT_ONCE = 2**23  # pre-activations
_FIRST_THRESHOLD = 0.5  # of a pre-activation, whose standard deviation is near 1 where |x|^2 is d_in


class Dictionary(nn.Module, ABC):
    """What all kinds share: an encoder, a decoder whose rows have length 1, and perhaps a linear skip.

    Training mode matters to `BatchTopK` alone, which then looks at the whole batch. `config` says what it is for.
    """

    def __init__(self, config: DictionaryConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.W_dec = nn.Parameter(unit_rows(torch.randn(config.d_sae, config.d_out, generator=generator)))
        if config.is_transcoder:
            self.W_enc = nn.Parameter(unit_rows(torch.randn(config.d_sae, config.d_in, generator=generator)).T.contiguous())
        else:
            self.W_enc = nn.Parameter(self.W_dec.detach().T.clone(memory_format=torch.contiguous_format))
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(config.d_out))
        self.W_skip = nn.Parameter(torch.zeros(config.d_out, config.d_in)) if config.has_skip else None

    @abstractmethod
    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the latents of pre-activations: none is below zero, few are above."""

    def penalty(self, pre: Float[Tensor, "batch d_sae"], latents: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return what training keeps small beside the error, mean over rows; nothing where k does it."""
        return latents.new_zeros(())

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return what the latents are chosen from."""
        pre: Tensor = self._centred(x) @ self.W_enc + self.b_enc
        return pre

    def _some_pre_activations(self, x: Float[Tensor, "*batch d_in"], features: list[int]) -> Float[Tensor, "*batch feature"]:
        pre: Tensor = self._centred(x) @ self.W_enc[:, features] + self.b_enc[features]
        return pre

    def _centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x - self.b_dec if self.config.subtracts_b_dec else x

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the latents of activations."""
        return self.activate(self.pre_activations(x))

    def encode_some(self, x: Float[Tensor, "*batch d_in"], features: Sequence[int]) -> Float[Tensor, "*batch feature"]:
        """Return some of the latents alone, which the kinds that choose each by itself do sooner."""
        latents: Tensor = self.encode(x)[..., list(features)]
        return latents

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Return what latents stand for; a skip is not in it, as that depends on what was read."""
        decoded: Tensor = latents @ self.W_dec + self.b_dec
        return decoded

    def reconstruct(self, x: Float[Tensor, "*batch d_in"], latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Return what is predicted from activations, given their latents."""
        decoded = self.decode(latents)
        return decoded if self.W_skip is None else decoded + x @ self.W_skip.T

    def explain(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch d_sae"], Float[Tensor, "batch d_sae"], Float[Tensor, "batch d_out"]]:
        """Return pre-activations, latents and what is predicted: a step of training, which the kinds may do sooner."""
        pre = self.pre_activations(x)
        latents = self.activate(pre)
        return pre, latents, self.reconstruct(x, latents)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Return what is predicted from activations."""
        return self.reconstruct(x, self.encode(x))

    def decoder_norms(self) -> Float[Tensor, "model d_sae"]:
        """Return the length of each latent's direction in each model."""
        norms: Tensor = rearrange(self.W_dec, "d_sae (model d) -> model d_sae d", model=self.config.n_models).norm(dim=-1)
        return norms

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give the decoder's rows length 1, whatever that does to what is predicted: after each step of training."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def fold_scales(self, read: Float[Tensor, " d_in"], predicted: Float[Tensor, " d_out"]) -> None:
        """Make a dictionary trained on `x * read` and `y * predicted` one of `x` and `y` themselves.

        One model's activations have one scale: the decoder's rows keep their length, and latents count in the activation's own units.
        Several models have one each: latents stay as they are, and the rows are scaled.
        """
        unit = 1.0
        if self.config.n_models == 1:
            unit = float(predicted[0])
        else:
            self.W_dec.div_(predicted)
        self.W_enc.mul_((read / unit)[:, None])
        self.b_enc.div_(unit)
        self.b_dec.div_(predicted)
        if self.W_skip is not None:
            self.W_skip.mul_(read / predicted[:, None])
        if isinstance(threshold := getattr(self, "threshold", None), Tensor):
            threshold.div_(unit)

    def extra_repr(self) -> str:
        """Return what is printed of it."""
        config = self.config
        what = f"{config.name or 'activations'} -> {config.target}" if config.is_transcoder else config.name or "activations"
        k = "" if config.k is None else f", k={config.k}"
        return f"{what}, d_in={config.d_in}, d_sae={config.d_sae}{k}"


class ReLU(Dictionary):
    """`max(pre, 0)`, with the sum of the latents kept small (Bricken et al. 2023); of a crosscoder each times its lengths' sum."""

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return what is above zero."""
        return pre.relu()

    def encode_some(self, x: Float[Tensor, "*batch d_in"], features: Sequence[int]) -> Float[Tensor, "*batch feature"]:
        """Return some of the latents, each of which its own direction gives."""
        return self._some_pre_activations(x, list(features)).relu()

    def penalty(self, pre: Float[Tensor, "batch d_sae"], latents: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the latents' weighted sum, in units of an activation's usual length (Lindsey et al. 2024 for several models)."""
        weighted: Tensor = (latents.mean(0) * self.decoder_norms().sum(0)).sum() / self.config.d_out**0.5
        return weighted


class TopK(Dictionary):
    """The k largest of a row, where they are above zero (Gao et al. 2024, section 2.3)."""

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the k largest."""
        values, places = self._largest(pre)
        return torch.zeros_like(pre).scatter(-1, places, values)

    def explain(
        self, x: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch d_sae"], Float[Tensor, "batch d_sae"], Float[Tensor, "batch d_out"]]:
        """Return the same as without: only the rows of the decoder that a batch has latents of are read, and have gradients.

        The latents are numbers to look at; gradients go past them.
        """
        pre = self.pre_activations(x)
        values, places = self._largest(pre)
        decoded = F.embedding_bag(places, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec
        predicted = decoded if self.W_skip is None else decoded + x @ self.W_skip.T
        return pre, torch.zeros_like(pre).scatter(-1, places, values.detach()).detach(), predicted

    def _largest(self, pre: Float[Tensor, "*batch d_sae"]) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        assert self.config.k is not None
        values, places = pre.topk(self.config.k, dim=-1, sorted=False)
        return values.relu(), places


class _WithThreshold(Dictionary):
    """A dictionary with a threshold for every latent; none is below zero."""

    threshold: Tensor

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return what is above its threshold."""
        return pre * (pre > self.threshold)

    def encode_some(self, x: Float[Tensor, "*batch d_in"], features: Sequence[int]) -> Float[Tensor, "*batch feature"]:
        """Return some of the latents, each of which its own direction and threshold give; of a batch in training, all are computed."""
        if self.training:
            return super().encode_some(x, features)
        pre = self._some_pre_activations(x, list(features))
        return pre * (pre > self.threshold[list(features)])


class BatchTopK(_WithThreshold):
    """The `k * batch` largest of a batch while it is trained; afterwards all above one threshold (Bussmann et al. 2024).

    While it is trained the threshold follows the smallest latent that each batch kept; at the end it is set on rows of its own.
    """

    def __init__(self, config: DictionaryConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator=generator)
        self.register_buffer("threshold", torch.zeros(config.d_sae))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the largest of the batch, or outside training all above the threshold."""
        if not self.training:
            return super().activate(pre)
        assert self.config.k is not None
        flat = pre.flatten()
        n_kept = min(self.config.k * (flat.numel() // self.config.d_sae), flat.numel())
        values, places = flat.topk(n_kept, sorted=False)
        return torch.zeros_like(flat).scatter(0, places, values.relu()).reshape(pre.shape)

    @torch.no_grad()
    def follow_threshold(self, latents: Float[Tensor, "batch d_sae"], *, rate: float = 0.01) -> None:
        """Move the threshold towards the smallest latent of a batch that was kept; the first batch sets it."""
        kept = latents[latents > 0]
        if kept.numel():
            least = kept.min()
            moved = least if not bool(self.threshold.any()) else torch.lerp(self.threshold[0], least, rate)
            self.threshold.fill_(moved)

    @torch.no_grad()
    def calibrate_threshold(self, x: Float[Tensor, "row d_in"]) -> None:
        """Set the threshold so that of these rows `k` latents each are above it, in the mean."""
        assert self.config.k is not None
        n_wanted = self.config.k * len(x) + 1  # the last of them is the threshold itself
        largest = x.new_empty(0)
        for rows in x.split(max(1, _N_AT_ONCE // self.config.d_sae)):
            pre = self.pre_activations(rows).flatten()
            largest = torch.cat([largest, pre[pre > 0]])
            largest = largest.topk(min(n_wanted, len(largest)), sorted=False).values
        self.threshold.fill_(largest.min() if len(largest) == n_wanted else 0)


class JumpReLU(_WithThreshold):
    """`pre` where it is above a threshold that is learned, with the number of latents kept small (Rajamanoharan et al. 2024).

    The threshold's gradient is estimated through a window of `bandwidth` about it (their equations for the pseudo-derivatives).
    """

    def __init__(self, config: DictionaryConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator=generator)
        self.threshold = nn.Parameter(torch.full((config.d_sae,), _FIRST_THRESHOLD))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Return what is above its threshold."""
        jumped: Tensor = _Jump.apply(pre, self.threshold, self.config.bandwidth)  # type: ignore[no-untyped-call]
        return jumped

    def penalty(self, pre: Float[Tensor, "batch d_sae"], latents: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return how many latents a row has, with a gradient for the thresholds."""
        steps: Tensor = _Step.apply(pre, self.threshold, self.config.bandwidth)  # type: ignore[no-untyped-call]
        return steps.sum() / len(pre)


class _Jump(torch.autograd.Function):
    """`pre` above the threshold; the threshold's gradient is `-threshold / bandwidth` within the window."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return grad * (pre > threshold), threshold * _through_window(pre, threshold, ctx.bandwidth, grad), None


class _Step(torch.autograd.Function):
    """1 above the threshold; the threshold's gradient is `-1 / bandwidth` within the window."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, _through_window(pre, threshold, ctx.bandwidth, grad), None


def _through_window(pre: Tensor, threshold: Tensor, bandwidth: float, grad: Tensor) -> Tensor:
    near = (pre - threshold).abs() < bandwidth / 2
    return -(grad * near).flatten(0, -2).sum(0) / bandwidth


def check_mode(dictionary: Dictionary) -> None:
    """Raise ValueError for a dictionary in a mode of training that lets the rows of a batch change each other's latents."""
    if dictionary.training and isinstance(dictionary, BatchTopK):
        raise ValueError("the dictionary is in training mode, in which rows change each other's latents: call its eval() first")


_KINDS: dict[Kind, type[Dictionary]] = {"relu": ReLU, "topk": TopK, "batchtopk": BatchTopK, "jumprelu": JumpReLU}


def make_dictionary(config: DictionaryConfig, *, generator: torch.Generator | None = None) -> Dictionary:
    """Return a new dictionary of this kind and shape: decoder rows drawn at random, the encoder their transpose."""
    return _KINDS[config.kind](config, generator=generator)


def unit_rows(x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """Return rows of the same directions and of length 1; those of zeros stay."""
    rows: Tensor = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return rows
