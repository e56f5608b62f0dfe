"""`cutaway interpret attribute`: what each part of the model adds to an answer by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis, one_or_each

if TYPE_CHECKING:
    from cutaway.interp.residual import DirectAttribution
    from cutaway.language_model import LanguageModel

__all__ = ["attribute"]


_LINES = {"text": "text", "target": "correct", "wrong": "wrong"}


@analysis(_LINES, text=("The capital of France is",), target=(" Paris",), wrong=(" London",), by="head")
def attribute(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    target: tuple[str, ...] = (),
    wrong: tuple[str, ...] = (),
    by: Literal["component", "head", "neuron", "position"] = "component",
    pos: int = -1,
) -> DirectAttribution:
    """Take an answer's logit apart into what each part of the model adds to it directly; the parts add up to it.

    What acts through later layers is not seen here: `patch` and `ablate` show that. With --wrong it is the difference of two logits,
    in which what all tokens share cancels.

    Args:
        text: what the model reads; may be given again, for the mean over several
        target: the answer, one token; Paris after a word means " Paris"; one for all texts, or one for each; the
            model's own answer unless given
        wrong: the answer to hold against it
        by NAME: how finely: heads and neurons apart, or by the position that attention fetched it from
        pos: where the answer is given; negative ones count from the end

    Examples:
        cutaway interpret attribute smollm2-135m --text "The capital of France is" --target Paris --wrong London --by head
        cutaway interpret attribute smollm2-135m --text "The capital of France is" --by position

    In Python:
        import cutaway
        lm = cutaway.load("smollm2-135m")
        cutaway.residual.attribute(lm, "The capital of France is", " Paris", " London", by="head").show()
    """
    from cutaway.interp import residual

    return residual.attribute(lm, text, one_or_each(target), one_or_each(wrong), by=by, pos=pos)
