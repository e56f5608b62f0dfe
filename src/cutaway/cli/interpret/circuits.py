"""`cutaway interpret circuits`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["circuits"]


@analysis()
def circuits(
    lm: LanguageModel, *, num_sequences: int = 16, seq_length: int | None = None, threshold: float = 0.4, seed: int = 0
) -> Result:
    """Pair previous-token heads with the induction heads whose keys may read them, by K-composition.

    Heads are found on random tokens that come twice; composition is read from the weights, norm gains folded, once for a group of heads
    that share keys, less what a head turned at random in the residual stream would score. Elhage et al. 2021.

    Args:
        num_sequences: how many sequences are drawn
        seq_length: tokens that are drawn and then repeated, each once; 50, or what the context and the vocabulary hold
        threshold: the score from which a head is paired
        seed: of the tokens drawn

    Examples:
        cutaway interpret circuits --demo
        cutaway interpret circuits runs/attn-only-2l --threshold 0.3

    In Python:
        cutaway.circuits.candidate_circuits(lm, threshold=0.4).candidates
    """
    from cutaway.interp.circuits import candidate_circuits

    return candidate_circuits(lm, n_sequences=num_sequences, seq_length=seq_length, seed=seed, threshold=threshold)
