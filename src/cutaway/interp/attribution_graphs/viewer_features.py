"""What circuit-tracer's viewer shows of a feature beside the graph: a JSON file each, named by the feature's number there.

Written are transcoder_id, index, examples_quantiles (quantile_name, examples: tokens, tokens_acts_list, train_token_ind,
is_repeated_datapoint), top_logits, bottom_logits, act_min, act_max, quantile_values, histogram and activation_frequency.

Source: github.com/decoderesearch/circuit-tracer, frontend/feature_models.py and the viewer's own code beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cutaway.interp.sae import AGREES_FROM, FeaturePages
from cutaway.interp.sae.pages import FeatureSummary
from cutaway.report import token_label
from cutaway.runtime import atomic_write

__all__ = ["paired", "names_of", "write_features"]

_N_BINS = 50


def paired(layer: int, number: int) -> int:
    """Return the one number that stands for a feature's layer and number: their Cantor pairing."""
    return (layer + number) * (layer + number + 1) // 2 + number


def names_of(described: Mapping[int, FeaturePages]) -> dict[tuple[int, int], str]:
    """Return by layer and number the token that a feature stands for, of those whose contexts agree on one."""
    return {
        (layer, each.feature): token_label(each.token)
        for layer, pages in described.items()
        for each in pages.features
        if each.token and each.agreement >= AGREES_FROM
    }


def write_features(described: Mapping[int, FeaturePages], folder: Path) -> None:
    """Write what the viewer shows of features into a folder, a file each."""
    folder.mkdir(exist_ok=True)
    for layer, pages in described.items():
        for each in pages.features:
            values = {"transcoder_id": pages.said, "index": each.feature, **_shown(each)}
            atomic_write(folder / f"{paired(layer, each.feature)}.json", json.dumps(values, ensure_ascii=False, allow_nan=False))


def _shown(each: FeatureSummary) -> dict[str, Any]:
    sampled = torch.tensor(each.sampled or (0.0,), dtype=torch.float64)
    examples = [
        {
            "tokens": list(context.tokens),
            "tokens_acts_list": list(context.values),
            "train_token_ind": context.peak,
            "is_repeated_datapoint": False,
        }
        for context in each.contexts
    ]
    return {
        "examples_quantiles": [{"quantile_name": "Strongest contexts", "examples": examples}],
        "top_logits": [text for text, _ in each.raised],
        "bottom_logits": [text for text, _ in each.lowered],
        "act_min": 0.0,
        "act_max": max(each.strongest, sampled.max().item()),
        "quantile_values": sampled.quantile(torch.linspace(0, 1, 101, dtype=torch.float64)[1:]).tolist(),
        "histogram": sampled.histc(_N_BINS, min=0.0, max=max(each.strongest, sampled.max().item())).tolist(),
        "activation_frequency": each.density,
    }
