"""`cutaway interpret steer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new_file
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.interp.steering import SteeringVector
    from cutaway.language_model import LanguageModel

__all__ = ["steer"]


def _model_of_vector(options: Mapping[str, Any]) -> str | None:
    """Return what the model of a saved vector is called, None where there is none or it does not say."""
    from cutaway.interp.steering import SteeringVector

    return None if options["vector"] is None else SteeringVector.read(options["vector"]).model or None


@excludes("vector", "towards", "away", "layer", "site", "pos", "save", why="a vector that is read is not made")
@excludes(
    "target", "ablate", "max_new_tokens", "neutral", "save", why="--target shows an answer over layers and strengths, no text"
)
@analysis(
    text=("I opened the door and",),
    towards=(
        "I am so happy today, everything is wonderful.",
        "What a lovely, joyful morning this is!",
        "She laughed with delight and hugged her friends.",
        "This is the best day of my life, I feel great.",
    ),
    away=(
        "I am so sad today, everything is terrible.",
        "What a miserable, gloomy morning this is!",
        "She wept with grief and pushed away her friends.",
        "This is the worst day of my life, I feel awful.",
    ),
    layer=8,
    strength=(2.0, 4.0, -4.0),
    max_new_tokens=25,
    source_of=_model_of_vector,
    source_said="a saved vector's own, else the latest run",
)
def steer(
    lm: LanguageModel,
    *,
    source: str,
    text: tuple[str, ...],
    towards: tuple[str, ...] = (),
    away: tuple[str, ...] = (),
    vector: Path | None = None,
    layer: int | None = None,
    site: str = "resid_post",
    pos: int | None = None,
    strength: tuple[float, ...] = (),
    ablate: bool = False,
    neutral: tuple[str, ...] = (),
    max_new_tokens: int = 40,
    target: str | None = None,
    wrong: str | None = None,
    save: Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> Result:
    """Show what a model writes with a vector added to its stream, at several strengths, and what that does to neutral text.

    The vector is the mean activation of the texts to go towards less that of those to go away from. With --target no text is written:
    an answer is followed over layers and strengths. Turner et al. 2023; Arditi et al. 2024.

    Args:
        text: what the model goes on from; may be given again
        towards TEXT: a text of the kind to go towards; may be given again
        away TEXT: a text of the kind to go away from; may be given again
        vector FILE: a vector that was saved, in their place
        layer: where the vector is made and added, counted from 0; the middle one unless given
        site NAME: which activation of that layer
        pos: make the vector at this position of the texts, -1 the last; from all but the first unless given
        strength X: how many times it is added; may be given again. 1, 2 and 4 unless given; 0 is always shown
        ablate: take its direction out of the stream at every layer and position instead; as much moved along random ones is beside it
        neutral TEXT: a text that should not change; may be given again
        max_new_tokens: how long the continuations are
        target TOKEN: follow the log-probability of this answer to the texts over layers and strengths
        wrong TOKEN: the logit of --target less that of this one
        save FILE: write the vector, to a file that ends in .json or .safetensors
        overwrite: write it over a file that is there
        seed: of what is drawn: text, and random directions

    Examples:
        cutaway interpret steer --demo
        cutaway interpret steer smollm2-135m --text "The weather is" --towards "I love it" --away "I hate it" --strength 3 --strength -3
        cutaway interpret steer smollm2-135m --text "I think it is" --towards "I love it" --away "I hate it" --target good --wrong bad

    In Python:
        from cutaway import steering
        vector = steering.difference_of_means(lm, happy, sad, layer=8, pos=None)
        steering.steer(lm, vector, "I opened the door and", strengths=(2, 4)).show()
        from cutaway.interp.generating import generate_with_edits
        generate_with_edits(lm, "I opened the door and", vector.edits(4))
    """
    from cutaway.interp import steering
    from cutaway.interp.steering.vector import checked_ending

    if save is not None:
        check_new_file(checked_ending(save), "the vector", overwrite=overwrite)
    strengths = strength or (1.0, 2.0, 4.0)
    if target is not None:
        vectors = _vectors(lm, towards, away, vector, None if layer is None else [layer], site, pos)
        with count_progress("edits") as progress:
            return steering.scan_strengths(
                lm, vectors, text, strengths=strengths, correct=target, wrong=wrong, seed=seed, progress=progress
            )
    if wrong is not None:
        raise UsageError("--wrong is held against --target: give that too")
    made = _vectors(lm, towards, away, vector, [lm.config.n_layers // 2 if layer is None else layer], site, pos)[0]
    if save is not None:
        replace(made, model=source).save(save)
        stderr_console().print(f"The vector is in {save}.\n", style="dim", markup=False, soft_wrap=True)
    with count_progress("runs") as progress:
        return steering.steer(
            lm, made, text, strengths=strengths, ablate=ablate, neutral=neutral or None, max_new_tokens=max_new_tokens, seed=seed,
            progress=progress,
        )  # fmt: skip


def _vectors(
    lm: LanguageModel,
    towards: tuple[str, ...],
    away: tuple[str, ...],
    vector: Path | None,
    layers: Sequence[int] | None,
    site: str,
    pos: int | None,
) -> list[SteeringVector]:
    from cutaway.interp import steering

    if vector is not None:
        return [steering.SteeringVector.load(vector, lm.model)]
    if not towards or not away:
        raise UsageError(
            "a vector is made of texts --towards and --away: give at least one of each, or one that was saved with --vector"
        )
    return steering.differences_of_means(lm, towards, away, layers, part=site, pos=pos)
