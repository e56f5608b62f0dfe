"""One attribution patching experiment from texts to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cutaway.interp.attribution.nodes import NodeKind
from cutaway.interp.attribution.patching import Along, attribute_patches
from cutaway.interp.attribution.result import AttributionPatching
from cutaway.interp.paired_prompts import read_paired
from cutaway.interp.patching import MetricName
from cutaway.interp.prompts import Target
from cutaway.interp.rows import Texts
from cutaway.language_model import LanguageModel
from cutaway.report import token_label

__all__ = ["attribution_patch"]


def attribution_patch(
    lm: LanguageModel,
    clean: Texts,
    corrupted: Texts,
    correct: Target,
    wrong: Target | None = None,
    *,
    kinds: Sequence[NodeKind] | None = None,
    by_position: bool = False,
    qk_fix: bool = True,
    along: Along | None = None,
    steps: int = 16,
    exact_top: int | None = None,
    exact_all: bool = False,
    threshold: float = 0.05,
    metric: MetricName | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttributionPatching:
    """Estimate what each activation of the corrupted run would do in the clean one, and try the best `exact_top` of each kind.

    Kinds, lines and tries are as in `attribute_patches`, metric and prompts of different length as in `path_patch`. Raises ValueError
    for kinds that the model does not have, for prompts that do not align, for an answer that is not one token, and where both runs give
    the same metric.
    Source: Nanda 2023, "Attribution Patching"; Kramár et al. 2024, "AtP*", section 3.1.1.

    >>> import cutaway
    >>> from cutaway import attribution
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = "When Mary and John went to the store , John gave a drink to"
    >>> corrupted = "When Mary and John went to the store , Mary gave a drink to"
    >>> found = attribution.attribution_patch(lm, clean, corrupted, "Mary", "John", exact_top=10)
    >>> print(found.ranked("z")[0].node)
    L1H1.z
    """
    asked = read_paired(lm, clean, corrupted, correct, wrong, metric, pairs)
    found = attribute_patches(
        lm.model,
        asked.clean.tokens,
        asked.corrupted.tokens,
        asked.question.metric,
        kinds=kinds,
        by_position=by_position,
        qk_fix=qk_fix,
        along=along,
        steps=steps,
        exact_top=exact_top,
        exact_all=exact_all,
        threshold=threshold,
        progress=progress,
        **asked.runs,
    )
    tokens = tuple(map(token_label, asked.alignments[0].clean)) if len(asked.alignments) == 1 else ()
    return replace(found, measured=asked.question.words, notes=asked.notes, tokens=tokens)
