"""`cutaway interpret sae evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.sae.corpus import SAID_OF_MODEL, model_of_dictionary
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["evaluate"]


@needs_one_of("corpus", "store")
@excludes("store", "corpus", "n_pos", why="a store has windows of its own")
@analysis(corpus="stdlib", tokens=1024, n_pos=64, source_of=model_of_dictionary, source_said=SAID_OF_MODEL)
def evaluate(
    lm: LanguageModel,
    *,
    corpus: str | None = None,
    store: Path | None = None,
    sae: Path | None = None,
    tokens: int = 8192,
    n_pos: int = 128,
    first: int = 1,
    seed: int = 0,
) -> Result:
    """Show how well a dictionary predicts activations, and what the model loses with it in their place.

    On the last tenth of the text, or of a store's windows, which training does not see: the result says whether that is so. Beside the
    variance unexplained stands that of as many principal components as there are latents a row; beside the loss those with a mean and
    with zeros there.

    Args:
        corpus TEXT: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare
        store FOLDER: a store of this model's activations, on whose text instead
        sae FOLDER: a dictionary, saved here or by SAELens; a sketch is trained where none is given
        tokens: how many, spread over the last tenth of the corpus or the store
        n_pos: tokens of a window; the model's context where that is shorter
        first: so many first positions of a window are left as they are
        seed: of the sketch

    Examples:
        cutaway interpret sae evaluate --demo
        cutaway interpret sae evaluate smollm2-135m --sae sae-9 --corpus shakespeare
        cutaway interpret sae evaluate smollm2-135m --sae sae-9 --store smollm2-activations

    In Python:
        from cutaway import sae
        dictionary = sae.load_dictionary("sae-9")
        sae.evaluate(lm, dictionary, tokens).show()
    """
    from cutaway.cli.interpret.sae.corpus import unseen_windows
    from cutaway.interp.sae import evaluate as evaluated

    dictionary, windows, data = unseen_windows(lm, sae, corpus, store, n_tokens=tokens, n_pos=n_pos, seed=seed)
    with count_progress("windows") as progress:
        return evaluated(lm, dictionary, windows, first=first, data=data, progress=progress)
