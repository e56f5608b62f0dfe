"""`cutaway interpret attribution-patch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.prompt_files import PAIRS
from cutaway.cli.many_processes import shares_work
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["attribution_patch"]

_Kind = Literal[
    "embed", "z", "q", "k", "v", "pattern", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post", "neuron"
]  # fmt: skip

_CLEAN = "When Mary and John went to the store, John gave a drink to"
_CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
_LINES = {"text" if option == "clean" else option: word for option, word in PAIRS.items()}


@shares_work
@analysis(_LINES, text=(_CLEAN,), corrupted=(_CORRUPTED,), target=("Mary",), wrong=("John",), exact_top=20)
def attribution_patch(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    corrupted: tuple[str, ...],
    target: tuple[str, ...],
    wrong: tuple[str, ...] = (),
    kind: tuple[_Kind, ...] = (),
    by_position: bool = False,
    qk_fix: bool = True,
    along: Literal["inputs", "activations"] | None = None,
    steps: int = 16,
    exact_top: int | None = None,
    exact_all: bool = False,
    threshold: float = 0.05,
    metric: Literal["logit_diff", "prob", "log_prob"] | None = None,
) -> Result:
    """Estimate all patches from a corrupted text at once by gradients, and try the best of them exactly.

    To first order a patch does the activation's change times the metric's gradient. Queries and keys go through the softmax (AtP*,
    Kramár et al. 2024). With --exact-top or --exact-all the estimates are held against patches: rank correlation of sizes, false
    positives, misses, wrong signs.

    Args:
        text: what is read; may be given again, for the mean over several
        corrupted TEXT: what the patches come from; one for each text
        target TOKEN: the answer to the text; one for all texts, or one for each
        wrong TOKEN: another answer; the metric is then their logit difference
        kind: embed, z, q, k, v, pattern, attn_out, mlp_out, resid_pre, resid_mid, resid_post or neuron; may be given again for more;
            z, q, k, v, pattern and mlp_out unless given
        by_position: each position apart, instead of all together
        qk_fix: let queries and keys go through the softmax
        along: integrated gradients along the line between the embeddings, or between each activation's two values
        steps: points of that line
        exact_top: try so many of the best of each kind
        exact_all: try every one
        threshold: the share of the difference between the runs from which an effect counts
        metric: of the answer; logit_diff with a wrong one, else log_prob

    Examples:
        cutaway interpret attribution-patch --demo
        cutaway interpret attribution-patch --demo --kind resid_pre --by-position --exact-all

    In Python:
        from cutaway import attribution
        found = attribution.attribution_patch(lm, text, corrupted, "Mary", "John", exact_top=20)
        found.ranked("z")[:5], found.agreement()
    """
    from cutaway.interp import attribution

    with count_progress("patches") as progress:
        return attribution.attribution_patch(
            lm, text, corrupted, target, wrong or None, kinds=kind or None, by_position=by_position, qk_fix=qk_fix, along=along,
            steps=steps, exact_top=exact_top, exact_all=exact_all, threshold=threshold, metric=metric, progress=progress,
        )  # fmt: skip
