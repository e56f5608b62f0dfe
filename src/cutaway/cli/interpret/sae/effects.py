"""`cutaway interpret sae effects`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis, one_or_each
from cutaway.cli.interpret.prompt_files import PAIRS
from cutaway.cli.interpret.sae.corpus import SAID_OF_MODEL, given_or_sketch, model_of_dictionary, say_what_shows
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["effects"]

_LINES = {"text" if option == "clean" else option: word for option, word in PAIRS.items()}


@excludes("feature", "exact_top", why="those named are tried, all of them")
@analysis(
    _LINES,
    text=("When Mary and John went to the store, John gave a drink to",),
    target=("Mary",),
    wrong=("John",),
    source_of=model_of_dictionary,
    source_said=SAID_OF_MODEL,
)
def effects(
    lm: LanguageModel,
    *,
    source: str,
    text: tuple[str, ...],
    target: tuple[str, ...] = (),
    wrong: tuple[str, ...] = (),
    corrupted: tuple[str, ...] = (),
    sae: Path | None = None,
    corpus: str | None = None,
    feature: tuple[int, ...] = (),
    exact_top: int = 20,
    error: bool = True,
    seed: int = 0,
) -> Result:
    """Show what an answer loses without each feature of a dictionary: estimated by one gradient for all, tried for the best.

    The dictionary of any activation, or a transcoder, is spliced into the run with its error, and one feature's part is taken off
    wherever it fires. With --corrupted a feature is given what it is in another text instead. Marks et al. 2024.

    Args:
        text: what is read; may be given again, for the mean over several
        target TOKEN: the answer whose log-probability is measured, one for all texts or one for each; the loss unless given
        wrong TOKEN: another answer; the difference of the two logits is then measured
        corrupted TEXT: another text of as many tokens, from which features are patched; one for each text
        sae FOLDER: a dictionary, saved here or by SAELens; a sketch is trained where none is given
        corpus TEXT: what a sketch is trained on: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare; unless given the
            text that the model's run learned from, or stdlib
        feature N: try this feature; may be given again
        exact_top: try so many, those with the largest estimates
        error: leave out what the dictionary does not predict
        seed: of the sketch

    Examples:
        cutaway interpret sae effects --demo
        cutaway interpret sae effects smollm2-135m --sae sae-9 --text "The capital of France is" --target Paris --wrong London
        cutaway interpret sae effects smollm2-135m --sae sae-9 --prompts pairs.jsonl --exact-top 50 --report effects.html

    In Python:
        from cutaway import sae
        dictionary = sae.load_dictionary("sae-9")
        found = sae.feature_effects(lm, dictionary, "The capital of France is", correct="Paris", wrong="London")
        found.ranked()[:5], found.agreement
    """
    from cutaway.interp.sae import feature_effects

    if corrupted and len(corrupted) != len(text):
        raise UsageError(f"--text was given {len(text)} times and --corrupted {len(corrupted)}: give one for each text")
    dictionary = given_or_sketch(lm, sae, corpus, source=source, n_pos=128, seed=seed)
    with count_progress("features") as progress:
        found = feature_effects(
            lm, dictionary, text, correct=one_or_each(target), wrong=one_or_each(wrong), features=feature or None,
            exact_top=exact_top, other_texts=corrupted or None, with_error=error, progress=progress,
        )  # fmt: skip
    say_what_shows(sae)
    return found
