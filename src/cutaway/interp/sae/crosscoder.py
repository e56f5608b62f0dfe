"""Two checkpoints compared by one dictionary of both: latents that both have, and how long each one's direction is in either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.sae.activations import ModelActivations, SideBySide, width_of
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sae.model_comparison import ComparedLatent, ModelComparison
from cutaway.interp.sae.pages import context_at
from cutaway.interp.sae.shape import DictionaryConfig, Kind
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import Context
from cutaway.tokenizers import tokenizer_hash
from cutaway.weights import model_sha256

if TYPE_CHECKING:
    from cutaway.interp.store import ActivationStore

__all__ = ["check_same_tokens", "compare_decoders", "compare_models", "crosscoder_config", "stored_side_by_side"]


def crosscoder_config(
    models: Sequence[Transformer], name: str, *, width: int = 8, kind: Kind = "relu", k: int | None = None
) -> DictionaryConfig:
    """Return the shape of a crosscoder of an activation that all models have, with `width` times as many latents as coordinates.

    Raises ValueError for models in which it has different widths.
    """
    widths = [width_of(model, name) for model in models]
    if len(set(widths)) > 1:
        raise ValueError(
            f"{name} has {' and '.join(map(str, widths))} coordinates in the two models: a crosscoder is of models of one shape"
        )
    return DictionaryConfig(
        kind=kind, d_in=sum(widths), d_sae=width * widths[0], name=name, k=k, n_models=len(models), model_sha256=_hash_of(models)
    )


def check_same_tokens(first: LanguageModel, second: LanguageModel) -> None:
    """Raise ValueError for models with different tokenizers, which read a text as different tokens."""
    if tokenizer_hash(first.tokenizer) != tokenizer_hash(second.tokenizer):
        raise ValueError("the models have different tokenizers, so their activations are not of the same tokens: take two of one")


def stored_side_by_side(stores: Sequence[ActivationStore], name: str) -> SideBySide:
    """Return the rows of an activation that several stores hold, one for each model, beside each other.

    Raises ValueError for stores of different tokens or dtypes, whose rows are not of the same places in one order.
    """
    first, *others = stores
    for other in others:
        if first.n_tokens != other.n_tokens or any(
            not torch.equal(first.tokens[start : start + 2**20], other.tokens[start : start + 2**20])
            for start in range(0, first.n_tokens, 2**20)
        ):
            raise ValueError(
                f"the stores in {first.folder} and {other.folder} are of different tokens: collect both from one text, with windows of "
                "one length"
            )
        if first.dtype != other.dtype:
            raise ValueError(
                f"the stores in {first.folder} and {other.folder} are of {first.dtype} and {other.dtype}: use one dtype"
            )
    return SideBySide([store[name].flattened() for store in stores])


def compare_decoders(crosscoder: Dictionary, scales: Sequence[float] | None = None) -> ModelComparison:
    """Return how a crosscoder's latents are shared out between two models, in each model's own units.

    `scales` are what each model's activations were multiplied with in training: those of the crosscoder's config unless given. Raises
    ValueError for a dictionary of one model, or of more than two, and where scales are known from neither. Latents that never fire
    count too: `compare_models` leaves them out.
    """
    if crosscoder.config.n_models != 2:
        n = crosscoder.config.n_models
        raise ValueError(f"the dictionary reads {n} model{'s' * (n > 1)}, and two are compared: train one of two models")
    scales = crosscoder.config.scales if scales is None else scales
    if scales is None:
        raise ValueError(
            "the crosscoder does not know the scales of its training, without which the model of longer activations seems to have "
            "all latents: give scales, one for each model (curve.scales)"
        )
    if len(scales) != 2:
        raise ValueError(f"{len(scales)} scales were given; expected one for each of the two models")
    first, second = crosscoder.W_dec.detach().chunk(2, dim=1)
    norms = torch.stack([first.norm(dim=1) * scales[0], second.norm(dim=1) * scales[1]])
    cosines = torch.nn.functional.cosine_similarity(first, second, dim=1)
    return ModelComparison(norms, cosines, activation=crosscoder.config.name)


def compare_models(
    crosscoder: Dictionary,
    first: LanguageModel,
    second: LanguageModel,
    tokens: Int[Tensor, "window pos"],
    *,
    names: tuple[str, str] = ("the first model", "the second model"),
    skip_first: int = 1,
    n_shown: int = 4,
    n_contexts: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """Return how the latents that fire on these windows are shared out between two models, and how well both are explained there.

    `skip_first` first positions of a window are not looked at. `n_shown` latents of each kind, those that write most, have their
    `n_contexts` strongest contexts. Raises ValueError as `compare_decoders` does, for a crosscoder of other models, and for models
    with different tokenizers.
    """
    config, models = crosscoder.config, (first.model, second.model)
    found = replace(compare_decoders(crosscoder), names=names)
    check_same_tokens(first, second)
    if config.model_sha256 is not None and config.model_sha256 != _hash_of(models):
        raise ValueError(
            "the crosscoder was trained on other models than these two in this order: give those, or train one of these"
        )
    if width_of(models[0], config.name) + width_of(models[1], config.name) != config.d_in:
        raise ValueError(f"the crosscoder reads {config.d_in} coordinates of {config.name}, and the models have others")
    source = ModelActivations(models, tokens, config.name, first=skip_first)
    dtype = crosscoder.W_enc.dtype
    with torch.no_grad():
        totals = _Totals(crosscoder)
        for rows in source.in_order(_half(progress, 0)):
            totals.add(rows.to(dtype))
        found = replace(found, density=totals.n_fired / totals.n_rows, n_rows=totals.n_rows, fvu=totals.fvu)
        chosen = _heaviest(found, totals.sums, n_shown)
        latents = [crosscoder.encode(rows.to(dtype))[:, list(chosen)].float().cpu() for rows in source.in_order(_half(progress, 1))]
    values = torch.zeros(len(chosen), *tokens.shape)
    values[..., skip_first:] = torch.cat(latents).T.unflatten(1, (len(tokens), -1))
    shown = tuple(
        ComparedLatent(
            latent=latent, whose=whose, relative=float(found.relative[latent]), cosine=float(found.cosines[latent]),
            density=float(totals.n_fired[latent] / totals.n_rows), contexts=_contexts(first, tokens, values[place], n_contexts),
        )
        for place, (latent, whose) in enumerate(chosen.items())
    )  # fmt: skip
    return replace(found, shown=shown)


def _half(progress: Callable[[int, int], None] | None, n_before: int) -> Callable[[int, int], None] | None:
    """Return a function that tells of one of two passes."""
    return None if progress is None else lambda n, n_all: progress(n_before * n_all + n, 2 * n_all)


def _heaviest(found: ModelComparison, sums: Float[Tensor, " d_sae"], n: int) -> dict[int, str]:
    """Return the latents of each kind that write most, with whose they are: sums of latents times their directions' lengths."""
    weight = sums * found.norms.sum(0)
    return {
        latent: whose
        for whose, is_its in found.parts.items()
        for latent in (weight * is_its).argsort(descending=True, stable=True)[: min(n, int(is_its.sum()))].tolist()
    }


class _Totals:
    """What is added up over rows: how often latents fire, how much they come to, and either model's error beside its variance."""

    def __init__(self, crosscoder: Dictionary) -> None:
        self.crosscoder = crosscoder
        self.n_rows = 0
        zeros = torch.zeros(crosscoder.config.d_sae, dtype=torch.float64, device=crosscoder.W_enc.device)
        self.n_fired, self.sums = zeros, zeros.clone()
        self.error = torch.zeros(2, dtype=torch.float64)
        self.squares = torch.zeros(2, dtype=torch.float64)
        self.total: Float[Tensor, " d_in"] | None = None

    def add(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Add some rows."""
        latents = self.crosscoder.encode(rows)
        self.n_rows += len(rows)
        self.n_fired = self.n_fired + (latents > 0).sum(0)
        self.sums = self.sums + latents.sum(0, dtype=torch.float64)
        self.error += _of_models((rows - self.crosscoder.decode(latents)).double().square().sum(0))
        self.squares += _of_models(rows.double().square().sum(0))
        total = rows.sum(0, dtype=torch.float64)
        self.total = total if self.total is None else self.total + total

    @property
    def fvu(self) -> tuple[float, float]:
        """The fraction of variance unexplained of either model."""
        assert self.total is not None
        variance = self.squares - _of_models(self.total.square() / self.n_rows)
        first, second = (self.error / variance).tolist()
        return first, second


def _of_models(coordinates: Float[Tensor, " d_in"]) -> Float[Tensor, " model"]:
    sums: Tensor = coordinates.unflatten(0, (2, -1)).sum(1).cpu()
    return sums


def _contexts(
    lm: LanguageModel, tokens: Int[Tensor, "window pos"], values: Float[Tensor, "window pos"], n: int
) -> tuple[Context, ...]:
    """Return the contexts of the windows in which a latent is strongest."""
    strongest, at = values.max(dim=1)
    order = [window for window in strongest.argsort(descending=True, stable=True)[:n].tolist() if strongest[window] > 0]
    return tuple(context_at(lm, tokens[window], values[window], int(at[window])) for window in order)


def _hash_of(models: Sequence[Transformer]) -> str:
    return " ".join(model_sha256(model) for model in models)
