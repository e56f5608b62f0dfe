"""One path patching experiment from texts to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.paired_prompts import read_paired
from cutaway.interp.patching import MetricName
from cutaway.interp.path_patching.patching import patch_paths
from cutaway.interp.path_patching.reach import MLPs
from cutaway.interp.path_patching.result import PathPatching
from cutaway.interp.prompts import Target
from cutaway.interp.rows import Texts
from cutaway.language_model import LanguageModel

__all__ = ["path_patch"]


def path_patch(
    lm: LanguageModel,
    clean: Texts,
    corrupted: Texts,
    correct: Target,
    wrong: Target | None = None,
    *,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] = ("logits",),
    mlps: MLPs = "recomputed",
    features: Sequence[FeatureNodes] = (),
    frozen_norms: str | Sequence[str] = (),
    receiver_pos: int | Sequence[int] | None = None,
    metric: MetricName | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PathPatching:
    """Let senders write in the clean run what they write in the corrupted one, for one receiver, or one set of them, at a time.

    Senders, receivers, MLPs, features and norms are as in `patch_paths`: of several receivers each is patched alone, and those
    joined by + together. The metric is `logit_diff` where a wrong answer is given and `log_prob` where none is. Prompts of
    different length are aligned by their common beginning and end, or by `pairs` of (clean, corrupted) positions; elsewhere senders
    keep what they write. Raises ValueError for parts that the model does not have, for prompts that do not align, for an answer
    that is not one token, and where both runs give the same metric. Source: Wang et al. 2022, "Interpretability in the Wild",
    section 3.1.

    >>> import cutaway
    >>> from cutaway import path_patching
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = "When Mary and John went to the store , John gave a drink to"
    >>> corrupted = "When Mary and John went to the store , Mary gave a drink to"
    >>> path_patching.path_patch(lm, clean, corrupted, "Mary", "John", receivers=["L1H1.k"]).ranked()[0].sender
    'L0H2'
    """
    asked = read_paired(lm, clean, corrupted, correct, wrong, metric, pairs)
    found = patch_paths(
        lm.model,
        asked.clean.tokens,
        asked.corrupted.tokens,
        asked.question.metric,
        senders=senders,
        receivers=receivers,
        mlps=mlps,
        features=features,
        frozen_norms=frozen_norms,
        receiver_pos=receiver_pos,
        progress=progress,
        **asked.runs,
    )
    return replace(found, measured=asked.question.words, notes=asked.notes)
