"""`cutaway interpret importance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["importance"]


@analysis(
    text=(
        "Once upon a time there was a little girl who lived with her grandmother in a house by the sea.",
        "The capital of France is Paris, the capital of Italy is Rome, and the capital of Spain is Madrid.",
    )
)
def importance(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    how: Literal["zero", "mean", "resample"] = "zero",
    target: str | None = None,
    wrong: str | None = None,
    reference: tuple[str, ...] = (),
    per: Literal["row", "position"] = "row",
    normalize: bool = False,
    seed: int = 0,
) -> Result:
    """Rank heads by what their absence costs, and by the gradient, which takes one run for all; say how far the two agree.

    Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 3.2 and equation 2.

    Args:
        text: what is read; may be given again, and should be for a mean worth having
        how: zeros, the mean over the reference (these texts unless given), or what it was in another text
        target: an answer, one token, whose log-probability is measured instead of the loss
        wrong: a wrong answer: the difference of the two logits is measured
        reference: a text of the reference; may be given again
        per: the gradient of a switch on a head for each text, or for each position by itself
        normalize: divide by the length over each layer's heads
        seed: of which text another one's activations come from

    Examples:
        cutaway interpret importance --demo
        cutaway interpret importance runs/shakespeare-char --text "ROMEO: But soft" --text "JULIET: O Romeo" --per position

    In Python:
        from cutaway import ablation
        found = ablation.head_importance(lm, texts)
        found.ranked("gradient", top=5), found.rank_correlation
    """
    from cutaway.interp.ablation import head_importance

    asked = {"correct": target, "wrong": wrong, "reference": reference or None}
    with count_progress("heads") as progress:
        return head_importance(lm, text, how=how, per=per, normalize=normalize, seed=seed, progress=progress, **asked)  # type: ignore[arg-type]
