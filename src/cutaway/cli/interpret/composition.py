"""`cutaway interpret composition`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes
from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["composition"]


@excludes("kind", "num_sequences", "seq_length", "threshold", "seed", why="--kind is read off the weights of all heads")
@analysis()
def composition(
    lm: LanguageModel,
    *,
    kind: Literal["q", "k", "v"] | None = None,
    num_sequences: int = 16,
    seq_length: int | None = None,
    threshold: float = 0.4,
    seed: int = 0,
) -> Result:
    """Pair previous-token heads with the induction heads whose keys may read them, by K-composition.

    Heads are found on random tokens that come twice; composition is read from the weights, norm gains folded, with what each
    head's own queries make of the keys that it may share, less what a head turned at random in the residual stream would score. With
    --kind the composition of all heads is shown instead, through queries, keys or values. Elhage et al. 2021.

    Args:
        kind: what of a later head reads the earlier one; all two heads of the model, whatever they do
        num_sequences: how many sequences are drawn
        seq_length: tokens that are drawn and then repeated, each once; 50, or what the context and the vocabulary hold
        threshold: the score from which a head is paired
        seed: of the tokens drawn

    Examples:
        cutaway interpret composition --demo
        cutaway interpret composition runs/attn-only-2l --threshold 0.3
        cutaway interpret composition smollm2-135m --kind v

    In Python:
        import cutaway
        cutaway.composition.candidate_circuits(lm, threshold=0.4).candidates
        cutaway.composition.composition_scores(lm.model, ("v",)).strongest("v")
    """
    from cutaway.interp.composition import candidate_circuits, composition_scores

    if kind is not None:
        return composition_scores(lm.model, (kind,))
    return candidate_circuits(lm, n_sequences=num_sequences, seq_length=seq_length, seed=seed, threshold=threshold)
