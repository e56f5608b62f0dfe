"""`cutaway interpret heads`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["heads"]


@analysis()
def heads(
    lm: LanguageModel, *, num_sequences: int = 16, seq_length: int | None = None, threshold: float = 0.5, seed: int = 0
) -> Result:
    """Score every head for what heads are known to do: previous token, first token, duplicate, induction, copying, near-uniform.

    One run over random tokens that come twice tells all but copying, which is read from the weights. Beside the scores stands the null:
    what uniform attention scores (for near-uniform heads, what attention to one token does). Olsson et al. 2022; copying: Elhage et al.
    2021.

    Args:
        num_sequences: how many sequences are drawn
        seq_length: tokens that are drawn and then repeated, each once; 50, or what the context and the vocabulary hold
        threshold: the score from which a head counts as of a kind
        seed: of the tokens drawn

    Examples:
        cutaway interpret heads --demo
        cutaway interpret heads runs/shakespeare-char --report heads.html

    In Python:
        import cutaway
        found = cutaway.heads.detect_heads(lm, n_sequences=16, seed=0)
        found.top(5, "induction"), found.labels(threshold=0.5)
    """
    from cutaway.interp.heads import detect_heads

    return detect_heads(lm, n_sequences=num_sequences, seq_length=seq_length, seed=seed, threshold=threshold)
