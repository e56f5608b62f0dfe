"""`cutaway interpret logit-lens`: what each layer would say next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.lens import LensReading
    from cutaway.language_model import LanguageModel

__all__ = ["logit_lens"]


@analysis(text="The capital of France is", target="Paris")
def logit_lens(
    lm: LanguageModel,
    *,
    text: str,
    include_mid: bool = False,
    norm: Literal["own", "frozen", "none"] = "own",
    target: str | None = None,
    top_k: int = 5,
) -> LensReading:
    """Show what each layer would say next, if the model ended there.

    The final norm and the unembedding read the residual stream at every layer and position.

    Args:
        text: what the model reads; asked for on a terminal unless given
        include_mid: read the stream between attention and MLP too
        norm: whose scale the final norm divides by: the layer's own, the one the run ends with (frozen), or no norm (none)
        target TOKEN: follow the probability and rank of this token, instead of the text's next ones
        top_k: so many of the likeliest tokens in --json

    Examples:
        cutaway interpret logit-lens --demo
        cutaway interpret logit-lens smollm2-135m --text "The capital of France is" --target Paris
        cutaway interpret logit-lens runs/demo

    In Python:
        from cutaway import lens
        lens.logit_lens(lm, "The capital of France is").show()
    """
    from cutaway.interp import lens

    return lens.logit_lens(lm, text, include_mid=include_mid, norm=norm, target=target, top_k=top_k)
