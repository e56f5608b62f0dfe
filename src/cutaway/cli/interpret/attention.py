"""`cutaway interpret attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["attention"]


@analysis(text="the cat sat on the mat and the cat sat on the", layer=18, head=6)
def attention(
    lm: LanguageModel,
    *,
    text: str,
    layer: int | None = None,
    head: int | None = None,
    weighting: Literal["attention", "value", "output"] = "attention",
) -> Result:
    """Show where heads look in a text: maps, and how widely and how far back each looks.

    Of a few heads their maps are shown; of a layer a table and the mean map; of a whole deep model maps of layers by heads: how widely
    (entropy, as a share of the most possible) and how far back (mean distance) they look. On a terminal without --text, texts are asked
    for. Weighted by value or output, a key counts by what it brings: Kobayashi et al. 2020.

    Args:
        text: what is read
        layer: counted from 0, or from the end where it is negative; all unless given
        head: the same
        weighting: attention alone, times the length of the value, or the length of what is written of it

    Examples:
        cutaway interpret attention --demo
        cutaway interpret attention smollm2-135m --text "When Mary and John went to the store" --layer 18
        cutaway interpret attention --layer 1 --head 0 --weighting output

    In Python:
        import cutaway
        cutaway.attention.attention_patterns(lm, text, layer=18, head=6).show()
    """
    from cutaway.interp.attention import attention_patterns

    return attention_patterns(lm, text, layer=layer, head=head, weighting=weighting)
