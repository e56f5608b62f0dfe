"""The logit lens: the final norm and the unembedding applied to the residual stream at every layer."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from cutaway.interp.lens.reading import LensReading, read_text
from cutaway.interp.lens.states import LensNorm, state_names
from cutaway.language_model import LanguageModel

__all__ = ["logit_lens"]


def logit_lens(
    lm: LanguageModel,
    text: str | Int[Tensor, "..."] | Sequence[int],
    *,
    include_mid: bool = False,
    norm: LensNorm = "own",
    target: str | int | None = None,
    top_k: int = 5,
    bos: bool | None = None,
) -> LensReading:
    """Return what each layer would say next if the model ended there, for a text or one row of ids (nostalgebraist 2020).

    The final norm divides each state by its own scale (`norm="own"`), by the one that the run ended with (`"frozen"`), or is left out
    (`"none"`). `include_mid` reads the stream between attention and MLP too. Probabilities and ranks are of `target` at every position,
    else of the text's next token, and at its end of the model's own answer. KL is that of the model's answer from the reading, in nats.
    Raises ValueError for a text that is too long, a target that is not one token, and mid-layers where the model has none.

    >>> import cutaway
    >>> lm = cutaway.load("ioi-mini")
    >>> cutaway.lens.logit_lens(lm, "When Mary and John went to the store , John gave a drink to").words[-1][-1][0]
    ' Mary'
    """
    names = state_names(lm.config, include_mid=include_mid)
    return read_text(lm, text, names, norm=norm, target=target, top_k=top_k, bos=bos)
