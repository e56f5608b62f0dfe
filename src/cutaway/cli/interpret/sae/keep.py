"""`cutaway interpret sae keep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.circuit.given import GivenPairs
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.sae.corpus import SAID_OF_MODEL, given_or_sketch, model_of_dictionary, say_what_shows
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["keep"]


@needs_one_of("prompts", "ioi", ("text", "corrupted", "target"))
@excludes("feature", "held_out", why="those named are in order already, and none is to be found on other prompts")
@analysis(ioi=8, source_of=model_of_dictionary, source_said=SAID_OF_MODEL)
def keep(
    lm: LanguageModel,
    *,
    source: str,
    given: GivenPairs,
    sae: Path | None = None,
    corpus: str | None = None,
    feature: tuple[int, ...] = (),
    size: tuple[int, ...] = (),
    ablation: Literal["zero", "mean", "resample"] = "resample",
    rest: bool = True,
    n_random: int = 10,
    held_out: float = 0.5,
    seed: int = 0,
) -> Result:
    """Keep some features of one activation and ablate all else of it, and see from how many on an answer is the model's.

    Features come in the order of what a gradient says of each, on some of the prompts, and the curve is of the others, so that it is no
    picture of its own choice. Beside it stand random sets of as many features. Works for dictionaries of any activation, and for
    transcoders. Marks et al. 2024, of nodes alone.

    Args:
        sae FOLDER: a dictionary, saved here or by SAELens; a sketch is trained where none is given
        corpus TEXT: what a sketch is trained on: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare; unless given the
            text that the model's run learned from, or stdlib
        feature N: a feature to keep, the first one first; may be given again, and no others are kept
        size N: keep so many; may be given again; 0, 1, 2, 5, 10 and so on unless given
        ablation: what stands for the others: what they are in the corrupted prompt, their mean over those prompts, or nothing
        rest: take away what is no feature too, the dictionary's bias and error
        n_random: so many random sets of each size
        held_out: the share of the pairs that the curve is of; of one pair the curve is too
        seed: of random sets, of what pairs are held out and of the sketch

    Examples:
        cutaway interpret sae keep --demo
        cutaway interpret sae keep smollm2-135m --sae sae-9 --prompts pairs.jsonl --report kept.html
        cutaway interpret sae keep smollm2-135m --sae sae-9 --ioi 32 --ablation mean --no-rest

    In Python:
        from cutaway import circuits
        pairs = circuits.read_pairs(lm, ["The capital of France is"], ["The capital of England is"], ["Paris"], ["London"])
        circuits.keep_features(lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, dictionary).show()
    """
    from cutaway.interp.circuits import keep_features

    pairs = given.read(lm)
    dictionary = given_or_sketch(lm, sae, corpus, source=source, n_pos=128, seed=seed)
    order = list(feature) or None
    said = "Features are in the order of these same prompts: give more pairs to find it on some and measure on others."
    if not feature and held_out < 1 and len(set(pairs.hashes)) > 1:
        first, pairs = pairs.split(1 - held_out, seed=seed)
        ranked = keep_features(
            lm.model, first.tokens, first.other_tokens, first.metric, dictionary, sizes=[0], ablation=ablation, n_random=0
        )
        order = list(ranked.features)
        said = f"Features are in the order that {len(first)} pairs give; the curve is of the other {len(pairs)}."
    if not feature:
        stderr_console().print(f"{said}\n", style="dim", markup=False, soft_wrap=True)
    with count_progress("sets") as progress:
        found = keep_features(
            lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, dictionary, features=order, sizes=size or None,
            ablation=ablation, keeps_rest=rest, n_random=n_random, seed=seed, measured=pairs.measured, progress=progress,
        )  # fmt: skip
    say_what_shows(sae)
    return found
