"""`cutaway interpret patch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.prompt_files import PAIRS
from cutaway.cli.many_processes import shares_work
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.patching import PatchResult
    from cutaway.language_model import LanguageModel

__all__ = ["patch"]


@shares_work
@analysis(PAIRS, clean=("The Eiffel Tower is in",), corrupted=("The Empire State Building is in",), target=("Paris",))
def patch(
    lm: LanguageModel,
    *,
    clean: tuple[str, ...],
    corrupted: tuple[str, ...],
    target: tuple[str, ...],
    wrong: tuple[str, ...] = (),
    site: str = "resid_pre",
    by: Literal["position", "head", "kv-head", "head-position", "layer"] | None = None,
    direction: Literal["denoising", "noising"] = "denoising",
    metric: Literal["logit_diff", "log_prob", "prob"] | None = None,
) -> PatchResult:
    """Put activations of one text into the run of another, and show how much of the answer comes with each.

    0 % is where nothing changes and 100 % where the answer becomes the other run's: recovery with denoising, the share of the way to
    the corrupted run with noising. Texts of different length are aligned by their common beginning and end. Meng et al. 2022; Wang et
    al. 2022.

    Args:
        clean: the text that gives the answer; may be given again, for the mean over several
        corrupted: the same with something changed, so that it does not; one for each text
        target TOKEN: the answer, one token; Paris after a word is taken as " Paris"; one for all texts, or one for each
        wrong TOKEN: a wrong answer: the difference of the two logits is measured
        site NAME: what is patched: resid_pre, resid_mid, resid_post, attn_out, mlp_out, or of heads z, q, k, v, pattern
        by: what is patched at a time; a position, or for parts of heads a head at all positions, unless given
        direction: denoising puts clean into corrupted, noising corrupted into clean
        metric: logit_diff where a wrong answer is given, else log_prob, unless given

    Examples:
        cutaway interpret patch --demo
        cutaway interpret patch --demo --site z
        cutaway interpret patch smollm2-135m --prompts pairs.jsonl --site z
        cutaway interpret patch smollm2-135m --clean "The king of France" --corrupted "The king of Spain" --target " is" --site mlp_out

    In Python:
        from cutaway import patching
        patching.patch(lm, clean, corrupted, "Paris", site="z").recovery   # layer head
    """
    from cutaway.interp import patching

    with count_progress("patches") as progress:
        return patching.patch(
            lm, clean, corrupted, target, wrong or None, site=site, by=by, direction=direction, metric=metric, progress=progress
        )
