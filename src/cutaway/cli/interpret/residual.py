"""`cutaway interpret residual`: the residual stream by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.residual import ResidualStream
    from cutaway.language_model import LanguageModel

__all__ = ["residual"]


@analysis(text="When Mary and John went to the store, John gave a drink to")
def residual(lm: LanguageModel, *, text: str) -> ResidualStream:
    """Show how long the residual stream is at every layer, how it turns, and what attention and MLPs add to it.

    The first position is left out of the means, as the stream there is often far longer than elsewhere.

    Args:
        text: what the model reads

    Examples:
        cutaway interpret residual smollm2-135m --text "When Mary and John went to the store,"

    In Python:
        import cutaway
        lm = cutaway.load("smollm2-135m")
        cutaway.residual.stream(lm, "When Mary and John went to the store,").show()
    """
    from cutaway.interp.residual import stream

    return stream(lm, text)
