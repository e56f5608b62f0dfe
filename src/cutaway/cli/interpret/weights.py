"""`cutaway interpret weights`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["weights"]


@analysis(layer=18, head=6)
def weights(
    lm: LanguageModel,
    *,
    layer: int | None = None,
    head: int | None = None,
    circuit: Literal["ov", "qk"] = "ov",
    offset: int = 1,
    top_k: int = 5,
) -> Result:
    """Read heads off the weights alone: how strongly and how widely they look (QK) and write (OV), and how much they copy.

    Of one head its strongest singular vectors are read through the vocabulary: what it reads and what it then writes, or what looks for
    what. Which head feeds which is `cutaway interpret composition`. Elhage et al. 2021; Millidge & Black 2022.

    Args:
        layer: counted from 0, or from the end where it is negative; all unless given
        head: one head of --layer
        circuit: what that head moves (ov), or where it looks (qk)
        offset: how many positions before the query the key is, for QK with rotary positions
        top_k: how many pairs of singular vectors are read

    Examples:
        cutaway interpret weights --demo
        cutaway interpret weights smollm2-135m --layer 18
        cutaway interpret weights smollm2-135m --layer 18 --head 6 --circuit qk --offset 4

    In Python:
        from cutaway import factored
        factored.head_weights(lm.model).copying
        factored.singular_vectors(lm.model, 18, 6, tokenizer=lm.tokenizer).show()
    """
    from cutaway.interp import factored

    if head is None:
        return factored.head_weights(lm.model, layer, offset=offset)
    if layer is None:
        raise ValueError("a head is one of a layer: give --layer too")
    of_qk = offset if circuit == "qk" and lm.model.rotary is not None else None
    return factored.singular_vectors(lm.model, layer, head, circuit=circuit, offset=of_qk, n_vectors=top_k, tokenizer=lm.tokenizer)
