"""Dictionaries in a run: an activation replaced by what a dictionary makes of it, and single features changed there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import weights
from cutaway.interp import edits
from cutaway.interp.edits import Edit, Index
from cutaway.interp.sae.activations import as_vectors, width_of
from cutaway.interp.sae.dictionary import Dictionary, check_mode
from cutaway.interp.sae.shape import DictionaryConfig
from cutaway.model import Transformer

__all__ = ["FeatureChange", "splice", "splice_transcoder", "edit_feature", "check_fits"]

FeatureChange = Literal["ablate", "set", "steer"]
"""A latent made 0, made a value everywhere, or its direction added so many times."""


@dataclass(frozen=True)
class _Spliced:
    """What a dictionary makes of activations, some of its latents changed on the way; the error may be kept."""

    dictionary: Dictionary
    with_error: bool
    change: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        check_mode(self.dictionary)

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return it in the shape and dtype of `x`."""
        rows = as_vectors(x, self.dictionary.config.name)
        return self.of(rows, rows).to(x.dtype).reshape(x.shape)

    def of(self, x: Float[Tensor, "... d_in"], y: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_out"]:
        """Return what stands in the place of `y`, read from `x`; gradients go through the latents, and the error has none."""
        wide = x.to(self.dictionary.W_enc.dtype)
        latents = self.dictionary.encode(wide)
        predicted = self.dictionary.reconstruct(wide, latents)
        error = (y.to(predicted.dtype) - predicted).detach() if self.with_error else None
        if self.change is not None:
            predicted = self.dictionary.reconstruct(wide, self.change(latents))
        return predicted if error is None else predicted + error


def splice(dictionary: Dictionary, *, with_error: bool = False, pos: Index = None) -> Edit:
    """Return the edit that puts what an autoencoder makes of its activation in the place of that, at all positions or some.

    With the error nothing changes in the run but what gradients go through. A sweep goes on from the layer of the activation. Raises
    ValueError for a transcoder, which reads one activation and writes another (`splice_transcoder`), for a crosscoder, and for a
    batchtopk in training mode.
    """
    return edits.apply(_own_name(dictionary), _Spliced(dictionary, with_error), reads="selection", pos=pos)


def splice_transcoder(dictionary: Dictionary, *, with_error: bool = False, pos: Index = None) -> list[Edit]:
    """Return the edits, one, that put what a transcoder predicts in the place of its target; a sweep with them runs the whole model."""
    config = dictionary.config
    if config.target is None or not config.is_transcoder:
        raise ValueError(f"this dictionary predicts what it reads, {config.name or 'an activation'}: use splice")
    spliced, target = _Spliced(dictionary, with_error), config.target

    def write(y: Tensor, x: Tensor) -> Tensor:
        return spliced.of(as_vectors(x, config.name), as_vectors(y, target)).to(y.dtype).reshape(y.shape)

    return [edits.apply(target, write, source=config.name, pos=pos)]


def edit_feature(
    dictionary: Dictionary,
    feature: int | Sequence[int],
    change: FeatureChange = "ablate",
    *,
    value: float = 0.0,
    with_error: bool = True,
    pos: Index = None,
) -> Edit:
    """Return the edit of one feature, or of several at once: ablated, set to `value`, or steered by `value` times its direction.

    With the error all else stays as the model has it; without, the activation is what the dictionary makes of it, the feature changed.
    Steering adds to the activation whatever the feature is there, and travels as JSON. Raises ValueError for features that are not
    there.
    """
    config, chosen = dictionary.config, [feature] if isinstance(feature, int) else list(feature)
    if wrong := [each for each in chosen if not 0 <= each < config.d_sae]:
        raise ValueError(f"there is no feature {wrong[0]}; there are {config.d_sae}, 0 to {config.d_sae - 1}")
    if change == "steer":
        if not with_error:
            raise ValueError(
                "steering adds to the activation as it is, error and all: leave out with_error, or give splice beside it"
            )
        name = config.target if config.target is not None and config.is_transcoder else _own_name(dictionary)
        return edits.add(name, value * dictionary.W_dec.detach()[chosen].sum(0), pos=pos)
    to = 0.0 if change == "ablate" else value

    def changed(latents: Tensor) -> Tensor:
        return latents.index_fill(-1, torch.tensor(chosen, device=latents.device), to)

    return edits.apply(_own_name(dictionary), _Spliced(dictionary, with_error, changed), reads="selection", pos=pos)


def check_fits(dictionary: Dictionary, model: Transformer, *, model_sha256: str | None = None) -> None:
    """Raise ValueError for a dictionary of activations that the model has not, of another width, of another model, or of several.

    The model's hash is compared with that of the dictionary's config, where that has one; `model_sha256` spares computing it again.
    """
    check_mode(dictionary)
    config = dictionary.config
    if not config.name:
        raise ValueError("the dictionary does not say which activation it is for: give its config a name")
    _check_one_model(config)
    places = {config.name: config.d_in, config.target or config.name: config.d_out}
    for name, width in places.items():
        if (theirs := width_of(model, name)) != width:
            raise ValueError(
                f"the dictionary is for {width} coordinates of {name!r} and this model has {theirs} there: take the model it was "
                f"trained on ({config.model or 'its name is not known'}), or train a dictionary for this one"
            )
    if config.model_sha256 is None:
        return
    found = weights.model_sha256(model) if model_sha256 is None else model_sha256
    if config.model_sha256 != found:
        raise ValueError(
            f"the dictionary was trained on another model ({config.model or 'its name is not known'}, sha256 "
            f"{config.model_sha256[:12]}) than this (sha256 {found[:12]}): take that model, or train a dictionary for this one"
        )


def _check_one_model(config: DictionaryConfig) -> None:
    if config.n_models > 1:
        raise ValueError(
            f"a crosscoder reads {config.n_models} models at once, and a run has one: "
            "`cutaway interpret sae compare BEFORE AFTER --corpus TEXT --sae FOLDER` shows it"
        )


def _own_name(dictionary: Dictionary) -> str:
    config = dictionary.config
    if config.is_transcoder:
        raise ValueError(f"a transcoder reads {config.name} and writes {config.target}: use splice_transcoder")
    _check_one_model(config)
    if not config.name:
        raise ValueError("the dictionary does not say which activation it is for: give its config a name")
    return config.name
