"""One patching experiment from texts to a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from cutaway.interp.alignment import Alignment, align
from cutaway.interp.patching.grid import Cell, cached_part, grid_with_base
from cutaway.interp.patching.questions import MetricName, check_gap, read_question
from cutaway.interp.patching.recovery import PatchResult
from cutaway.interp.prompts import Prompts, Target, read_prompts
from cutaway.interp.rows import Texts
from cutaway.interp.running import run_with_cache
from cutaway.language_model import LanguageModel
from cutaway.views import without_dropout

__all__ = ["Direction", "patch", "align_prompts"]

Direction = Literal["denoising", "noising"]
"""Denoising puts the clean run's activations into the corrupted run, noising the other way round."""


def patch(
    lm: LanguageModel,
    clean: Texts,
    corrupted: Texts,
    correct: Target,
    wrong: Target | None = None,
    *,
    site: str = "resid_pre",
    by: Cell | None = None,
    direction: Direction = "denoising",
    metric: MetricName | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PatchResult:
    """Put each activation of one run into the run of another prompt, one cell at a time, and return how much of the answer comes
    with it.

    `site` is any activation of a layer: resid_pre, resid_mid, resid_post, attn_out, mlp_out, or of its heads: z, q, k, v, pattern.
    `by` says what a cell is, as in `patch_grid`. Recovery is 0 where the metric stays that of the run patched into, and 1 where it
    becomes the other run's, which is the corrupted one with noising; over several prompts the metric is averaged first. The metric is
    `logit_diff` where a wrong answer is given and `log_prob` where none is. Prompts of different length are aligned by their common
    beginning and end, or by `pairs` of (clean, corrupted) positions. Raises ValueError for prompts that do not align, for an answer
    that is not one token, and where both runs give the same metric.

    Source: Meng et al. 2022 and Wang et al. 2022 (the method), Zhang and Nanda 2023 (metrics), Heimersheim and Nanda 2024,
    section 2 (denoising and noising).

    >>> import cutaway
    >>> lm = cutaway.load("ioi-mini")
    >>> clean = "When Mary and John went to the store , John gave a drink to"
    >>> corrupted = "When Mary and John went to the store , Mary gave a drink to"
    >>> found = cutaway.patching.patch(lm, clean, corrupted, "Mary", "John")
    >>> found.recovery.shape  # layer pos
    torch.Size([2, 14])
    >>> int(found.recovery[0].argmax())  # the second name, where the prompts differ
    9
    """
    if direction not in ("denoising", "noising"):
        raise ValueError(f"direction is {direction!r}; expected denoising or noising")
    clean_rows, corrupted_rows = read_prompts(lm, clean), read_prompts(lm, corrupted)
    alignments = align_prompts(lm, clean_rows, corrupted_rows, pairs)
    question = read_question(lm, correct, wrong, after=clean_rows, metric=metric)
    is_denoising = direction == "denoising"
    source, into = (clean_rows, corrupted_rows) if is_denoising else (corrupted_rows, clean_rows)
    oriented = [[pair if is_denoising else pair[::-1] for pair in each.pairs] for each in alignments]

    model = without_dropout(lm.model)
    logits, cache = run_with_cache(model, source.tokens, cached_part(model, site))
    assert logits is not None
    other = question.metric(logits, source.lengths)
    where: dict[str, Any] = {"site": site, "by": by, "pairs": oriented, "lengths": into.ragged_lengths}
    grid = grid_with_base(model, into.tokens, cache, question.metric, **where, progress=progress)
    check_gap(grid.base, other, logits, question.words, is_prob=question.name == "prob")
    return PatchResult(
        site=site,
        by=grid.by,
        direction=direction,
        metric=question.name,
        measured=question.words,
        correct=question.correct.texts,
        wrong=None if question.wrong is None else question.wrong.texts,
        alignments=tuple(alignments),
        positions=grid.positions,
        scores=grid.scores,
        base=grid.base,
        other=other,
        notes=question.notes,
    )


def align_prompts(
    lm: LanguageModel, clean: Prompts, corrupted: Prompts, pairs: Sequence[tuple[int, int]] | None = None
) -> list[Alignment]:
    """Return how each row aligns; raises ValueError where it does not, or only where nothing differs yet."""
    if len(clean) != len(corrupted):
        raise ValueError(f"there are {len(clean)} clean and {len(corrupted)} corrupted prompts: give one corrupted prompt for each")
    rows = [(clean.row(row), corrupted.row(row)) for row in range(len(clean))]
    if all(a == b for a, b in rows):
        raise ValueError(
            "the clean and the corrupted prompt are the same tokens, so that there is nothing to recover: change one of them"
        )
    found = [align(lm.tokenizer, a, b, pairs=pairs) for a, b in rows]
    if lm.config.is_causal and all(
        a[: i + 1] == b[: j + 1] for (a, b), each in zip(rows, found, strict=True) for i, j in each.pairs
    ):
        raise ValueError(
            f"the prompts have {len(rows[0][0])} and {len(rows[0][1])} tokens and only their beginning in common, where no patch "
            "changes anything: let them end alike, or give as many tokens (in Python, pairs= says which positions belong together)\n"
            + found[0].side_by_side()
        )
    return found
