"""`cutaway interpret sae pages`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.sae.corpus import SAID_OF_MODEL, model_of_dictionary
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["pages"]


@needs_one_of("corpus", "store")
@excludes("store", "corpus", "n_pos", why="a store has windows of its own")
@excludes("feature", "features", why="those named are shown, and none is drawn")
@analysis(corpus="stdlib", tokens=4096, features=10, n_pos=64, source_of=model_of_dictionary, source_said=SAID_OF_MODEL)
def pages(
    lm: LanguageModel,
    *,
    corpus: str | None = None,
    store: Path | None = None,
    sae: Path | None = None,
    feature: tuple[int, ...] = (),
    features: int = 100,
    contexts: int = 10,
    tokens: int = 100_000,
    n_pos: int = 128,
    first: int = 1,
    memory: float = 0.5,
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Show what features stand for: where each is strongest in a text, which tokens it raises, how often it fires.

    In the last tenth of the text, or of a store's windows, which training does not see. With --out a page is written for each, and an
    index of them. Bricken et al. 2023.

    Args:
        corpus TEXT: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare
        store FOLDER: a store of this model's activations, in whose text instead
        sae FOLDER: a dictionary, saved here or by SAELens; a sketch is trained where none is given
        feature N: this feature; may be given again
        features: so many, drawn at random from those that fire
        contexts: windows shown of each, those in which it is strongest
        tokens: how many are looked at, spread over the last tenth of the corpus or the store
        n_pos: tokens of a window; the model's context where that is shorter
        first: so many first positions of a window are not looked at
        memory: GiB that the latents held at a time may take
        seed: of the features drawn
        out FOLDER: where the pages go: index.html and one for each feature

    Examples:
        cutaway interpret sae pages --demo
        cutaway interpret sae pages smollm2-135m --sae sae-9 --corpus shakespeare --out features

    In Python:
        from cutaway import sae
        found = sae.describe_features(lm, dictionary, tokens, n_features=100)
        found.write("features")
    """
    from cutaway.cli.interpret.sae.corpus import unseen_windows
    from cutaway.interp.sae import describe_features
    from cutaway.interp.sae.evaluation import said_of_data

    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder to write the pages into")
    dictionary, windows, data = unseen_windows(lm, sae, corpus, store, n_tokens=tokens, n_pos=n_pos, seed=seed)
    with count_progress("windows") as progress:
        found = describe_features(
            lm, dictionary, windows, feature or None, n_features=features, n_contexts=contexts, first=first, max_gib=memory,
            seed=seed, progress=progress,
        )  # fmt: skip
    seen = said_of_data(dictionary.config.trained_on, data)
    said = "--out FOLDER writes a page for each, with the texts where it is strongest; --report FILE has those of the first."
    if out is not None:
        said = f"The pages begin at {found.write(out, settings={'corpus': data.source})}."
    stderr_console().print(f"{seen} {said}\n", style="dim", markup=False, soft_wrap=True)
    return found
