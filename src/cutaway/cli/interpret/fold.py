"""`cutaway interpret fold`: the same function with other weights, as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis

if TYPE_CHECKING:
    from cutaway.interp.folding import Folding
    from cutaway.language_model import LanguageModel

__all__ = ["fold"]


@analysis(text="The capital of France is")
def fold(
    lm: LanguageModel,
    *,
    out: Path | None = None,
    centre: bool = False,
    centre_unembed: bool = False,
    text: str | None = None,
    seed: int = 0,
) -> Folding:
    """Write the same model with its norms folded into the matrices that read them, and say how far the logits are apart.

    Then every matrix reads the stream itself, but for its length, and weights of different layers can be held against each other. A
    tied unembedding is untied. The new folder is loaded like any model.

    Args:
        out FOLDER: where the new model goes, a folder that is not there yet; it is only held against the old one unless given
        centre: also take from all writing weights the mean that LayerNorm takes away anyway
        centre_unembed: also take from the unembedding its mean over tokens; logits move, probabilities do not
        text: what both models read to be compared; random tokens unless given
        seed: of the random tokens

    Examples:
        cutaway interpret fold runs/demo --out demo-folded --centre
        cutaway interpret weights demo-folded

    In Python:
        from cutaway import refactoring
        folded = refactoring.fold_norm(lm.model)
        refactoring.centre_writing_weights(folded)
    """
    from cutaway.interp import folding

    return folding.fold(lm, out, centre=centre, centre_vocabulary=centre_unembed, text=text, seed=seed)
