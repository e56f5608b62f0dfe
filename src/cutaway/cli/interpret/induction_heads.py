"""`cutaway interpret induction-heads`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["induction_heads"]


@analysis()
def induction_heads(
    lm: LanguageModel, *, num_sequences: int = 16, seq_length: int | None = None, top_k: int = 10, seed: int = 0
) -> Result:
    """Find the heads that look at what followed the same token the last time (prefix matching).

    Random tokens are drawn without replacement and repeated once; a head scores the mean attention from each token of the second copy
    to the position after its earlier occurrence. The loss on either copy says what the model gains by it. Olsson et al. 2022.

    Args:
        num_sequences: how many sequences are drawn
        seq_length: tokens that are drawn and then repeated, each once; 50, or what the context and the vocabulary hold
        top_k: how many heads are shown
        seed: of the tokens drawn

    Examples:
        cutaway interpret induction-heads --demo
        cutaway interpret induction-heads runs/attn-only-2l --num-sequences 32 --seq-length 25 --top-k 5

    In Python:
        import cutaway
        cutaway.heads.induction_heads(lm, n_sequences=32, seq_length=25, top_k=5).show()
    """
    from cutaway.interp.heads import induction_heads as find

    return find(lm, n_sequences=num_sequences, seq_length=seq_length, seed=seed, top_k=top_k)
