"""Which features of a dictionary are nodes of a circuit: those by which the runs differ most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.sae import Dictionary, feature_effects, load_dictionary
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer

__all__ = ["choose_features", "features_for"]


def choose_features(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    dictionary: Dictionary,
    *,
    n_features: int = 20,
    path: Path | str = "",
) -> FeatureNodes:
    """Return as nodes the features that move a metric most when each has its latents of the other run, to first order.

    `path` is where the dictionary is saved, to be kept with a circuit. Fewer come back where fewer differ. Raises ValueError where none
    does, for a dictionary that predicts no MLP's output, and for runs of different length. Source: Marks et al. 2024, "Sparse Feature
    Circuits", the attribution of features by gradients.

    >>> import cutaway, torch
    >>> from cutaway import circuits, metrics, sae
    >>> lm = cutaway.load("greater-than")
    >>> config = sae.DictionaryConfig(d_in=64, d_sae=128, k=8, name="blocks.0.ln2.normalized", target="blocks.0.mlp_out")
    >>> transcoder = sae.make_dictionary(config, generator=torch.Generator().manual_seed(0))
    >>> clean, corrupted = (lm.tokens(f"the war lasted from the year 17 {year} to the year 17") for year in ("32", "02"))
    >>> answer = metrics.log_prob(lm.tokens(" 40")[0])
    >>> chosen = circuits.choose_features(lm.model, clean, corrupted, answer, transcoder, n_features=3)
    >>> len(chosen.features)
    3
    >>> scores = circuits.score_edges(lm.model, clean, corrupted, answer, features=[chosen])
    """
    if n_features < 1:
        raise ValueError(f"n_features is {n_features}; expected 1 at least")
    FeatureNodes.of(dictionary, [0])  # before anything is run
    found = feature_effects(model, dictionary, tokens, metric=metric, other_texts=other_tokens, exact_top=0)
    best = [each.feature for each in found.ranked()[:n_features]]
    if not best:
        raise ValueError(
            f"no feature of {dictionary.extra_repr()} differs between the runs: give other prompts, or a dictionary that fires there"
        )
    return FeatureNodes.of(dictionary, best, path=path)


def features_for(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    given: Sequence[FeatureNodes | Dictionary | Path | str],
    *,
    n_features: int,
) -> tuple[FeatureNodes, ...]:
    """Return features as nodes: those given, and of a dictionary, or of the folder of one, those that `choose_features` finds."""
    found = []
    for each in given:
        if isinstance(each, FeatureNodes):
            found.append(each)
            continue
        path = "" if isinstance(each, Dictionary) else Path(each).resolve()
        dictionary = each if isinstance(each, Dictionary) else load_dictionary(each, device=tokens.device)
        found.append(choose_features(model, tokens, other_tokens, metric, dictionary, n_features=n_features, path=path))
    return tuple(found)
