"""Where features fire: their strongest contexts in a corpus, how often and how strongly, in one pass that holds little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.sae.activations import ModelActivations
from cutaway.interp.sae.dictionary import Dictionary
from cutaway.interp.sae.reconstruction import random_features
from cutaway.interp.sae.splicing import check_fits
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

__all__ = ["ContextOptions", "FeatureContexts", "find_contexts", "feature_density"]

_N_SAMPLED = 2048  # activations kept of a feature, for its histogram


class ContextOptions(TypedDict, total=False):
    """What `find_contexts` takes besides model, dictionary and tokens."""

    n_features: int
    """How many are drawn where none are named; 100 unless given."""
    n_contexts: int
    """How many windows are kept of each; 10 unless given."""
    first: int
    """So many first positions of a window are not looked at; 1 unless given."""
    max_gib: float
    """Of latents held at a time; 0.5 unless given."""
    seed: int
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True, eq=False)
class FeatureContexts:
    """For each feature its strongest windows, at most one context a window, and a sample of its activations."""

    features: tuple[int, ...]
    density: Float[Tensor, " feature"]
    """In which share of the tokens that were looked at each fires."""
    windows: Int[Tensor, "feature context"]
    """The rows of the tokens, the strongest first; -1 where a feature fires in fewer."""
    values: Float[Tensor, "feature context pos"]
    """The feature at every position of these windows."""
    sampled: tuple[Float[Tensor, " _"], ...]
    """Activations above zero drawn at random, all of them where there are few."""
    n_tokens: int

    def peaks(self, place: int) -> list[tuple[int, int]]:
        """Return the window and the position of the maximum of each context of the feature at a place in `features`."""
        found = zip(self.windows[place].tolist(), self.values[place].argmax(1).tolist(), strict=True)
        return [(window, pos) for window, pos in found if window >= 0]

    def agreement(self, place: int, tokens: Int[Tensor, "window pos"], words: Callable[[int], object] = int) -> float | None:
        """Return which share of a feature's contexts have their commonest token at the peak; None where it has no context.

        `words` says what two tokens must share to be one, their ids unless given.
        """
        peaks = self.peaks(place)
        counts = Counter(words(int(tokens[window, pos])) for window, pos in peaks)
        return counts.most_common(1)[0][1] / len(peaks) if peaks else None


@dataclass
class _Found:
    """What the pass has so far."""

    windows: Int[Tensor, "feature context"]
    values: Float[Tensor, "feature context pos"]
    keys: Float[Tensor, "feature sample"]
    sampled: Float[Tensor, "feature sample"]
    n_fired: Int[Tensor, " feature"]


def find_contexts(
    lm: LanguageModel | Transformer,
    dictionary: Dictionary,
    tokens: Int[Tensor, "window pos"],
    features: Sequence[int] | None = None,
    *,
    n_features: int = 100,
    n_contexts: int = 10,
    first: int = 1,
    max_gib: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureContexts:
    """Return where features fire in windows of tokens: these features, or as many that fire at all, drawn at random by `seed`.

    The latents of a few windows are held at a time, no more than `max_gib` of them. The first `first` positions are not looked at.
    Raises ValueError for a dictionary that does not fit the model, and for features that are not there.
    """
    model = lm.model if isinstance(lm, LanguageModel) else lm
    check_fits(dictionary, model)
    source, n_pos = ModelActivations(model, tokens, dictionary.config.name, first=first), tokens.shape[1]
    bytes_each = 3 * dictionary.config.d_sae * n_pos * dictionary.W_enc.element_size()
    size = max(1, min(int(max_gib * 2**30 // bytes_each), 2048 // n_pos))
    parts = torch.arange(len(tokens)).split(size)
    n_passes = 1 if features is not None else 2
    with torch.inference_mode():
        if features is None:
            density = _density(dictionary, source, parts, _scaled(progress, 0, n_passes))
            features = random_features(density, n_features, seed=seed)
        if wrong := [each for each in features if not 0 <= each < dictionary.config.d_sae]:
            raise ValueError(f"there is no feature {wrong[0]}; there are {dictionary.config.d_sae}")
        return _find(dictionary, source, parts, list(features), n_contexts, seed, _scaled(progress, n_passes - 1, n_passes))


def feature_density(
    lm: LanguageModel | Transformer, dictionary: Dictionary, tokens: Int[Tensor, "window pos"], *, first: int = 1
) -> Float[Tensor, " d_sae"]:
    """Return in which share of the tokens each feature fires."""
    model = lm.model if isinstance(lm, LanguageModel) else lm
    check_fits(dictionary, model)
    source = ModelActivations(model, tokens, dictionary.config.name, first=first)
    with torch.inference_mode():
        return _density(dictionary, source, torch.arange(len(tokens)).split(max(1, 2048 // tokens.shape[1])), None)


def _density(
    dictionary: Dictionary,
    source: ModelActivations,
    parts: Sequence[Int[Tensor, " _"]],
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, " d_sae"]:
    n_fired = torch.zeros(dictionary.config.d_sae, dtype=torch.long)
    n_rows = 0
    for place, windows in enumerate(parts):
        latents = dictionary.encode(source.rows(source.tokens[windows]).to(dictionary.W_enc.dtype))
        n_fired += (latents > 0).sum(0).cpu()
        n_rows += len(latents)
        if progress is not None:
            progress(place + 1, len(parts))
    return n_fired / n_rows


def _find(
    dictionary: Dictionary,
    source: ModelActivations,
    parts: Sequence[Int[Tensor, " _"]],
    features: list[int],
    n_contexts: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> FeatureContexts:
    n_pos, n = source.tokens.shape[1], len(features)
    found = _Found(
        windows=torch.full((n, n_contexts), -1),
        values=torch.zeros(n, n_contexts, n_pos),
        keys=torch.full((n, _N_SAMPLED), 2.0),
        sampled=torch.zeros(n, _N_SAMPLED),
        n_fired=torch.zeros(n, dtype=torch.long),
    )
    generator = seeded_generator(seed)
    for place, windows in enumerate(parts):
        latents = dictionary.encode(source.rows(source.tokens[windows]).to(dictionary.W_enc.dtype))[:, features].cpu().float()
        values = torch.zeros(n, len(windows), n_pos)
        values[..., source.first :] = latents.T.unflatten(1, (len(windows), -1))
        _merge(found, windows, values)
        _sample(found, latents.T, generator)
        if progress is not None:
            progress(place + 1, len(parts))
    n_tokens = len(source.tokens) * (n_pos - source.first)
    is_kept = found.keys <= 1
    sampled = tuple(values[kept] for values, kept in zip(found.sampled, is_kept, strict=True))
    return FeatureContexts(tuple(features), found.n_fired / n_tokens, found.windows, found.values, sampled, n_tokens)


def _merge(found: _Found, windows: Int[Tensor, " window"], values: Float[Tensor, "feature window pos"]) -> None:
    """Keep of the contexts found before and those of these windows the strongest."""
    n_contexts = found.windows.shape[1]
    all_values = torch.cat([found.values, values], dim=1)
    all_windows = torch.cat([found.windows, windows.expand(len(values), -1)], dim=1)
    strongest, order = all_values.amax(2).sort(dim=1, descending=True, stable=True)
    order = order[:, :n_contexts]
    found.values = all_values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))
    found.windows = torch.where(strongest[:, :n_contexts] > 0, all_windows.gather(1, order), -1)


def _sample(found: _Found, latents: Float[Tensor, "feature row"], generator: torch.Generator) -> None:
    """Count what fires, and keep of all activations above zero those with the smallest of keys drawn at random."""
    fires = latents > 0
    found.n_fired += fires.sum(1)
    keys = torch.rand(latents.shape, generator=generator).masked_fill(~fires, 2.0)
    all_keys, all_values = torch.cat([found.keys, keys], dim=1), torch.cat([found.sampled, latents], dim=1)
    found.keys, order = all_keys.topk(_N_SAMPLED, dim=1, largest=False)
    found.sampled = all_values.gather(1, order)


def _scaled(progress: Callable[[int, int], None] | None, done: int, n_passes: int) -> Callable[[int, int], None] | None:
    """Return a function that tells of one of several passes."""
    return None if progress is None else lambda n, n_all: progress(done * n_all + n, n_passes * n_all)
