"""`cutaway interpret tuned-lens`: what each layer would say next, through a translator trained for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new
from cutaway.report import stderr_console
from cutaway.report.counting import step_progress

if TYPE_CHECKING:
    from cutaway.interp.lens import TunedLens
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["tuned_lens"]


@needs_one_of("train_on", "lens")
@excludes(
    "lens", "train_on", "steps", "batch_size", "n_pos", "learning_rate", "seed", "save", why="a lens that is read is not trained"
)
@analysis(train_on="stdlib", steps=5, batch_size=1, n_pos=32)
def tuned_lens(
    lm: LanguageModel,
    *,
    source: str,
    text: str | None = None,
    lens: Path | None = None,
    train_on: str | None = None,
    steps: int = 250,
    batch_size: int = 8,
    n_pos: int = 64,
    learning_rate: float = 1.0,
    seed: int = 0,
    save: Path | None = None,
    overwrite: bool = False,
    target: str | None = None,
    top_k: int = 5,
) -> Result:
    """Train a translator for each layer, or read one that was, and show what layers would say next through it.

    Without --text it shows how much nearer to the model's answer the trained lens is than the logit lens, on text that it did not see.
    Time grows with layers, tokens a step and the vocabulary: SmolLM2 wants --batch-size 1 on a CPU.

    Args:
        text: what the model reads
        lens FOLDER: a lens that was saved
        train_on CORPUS: a file, a folder, a glob, or stdlib, shakespeare, tinyshakespeare: what a new lens learns from
        steps: so many steps of training
        batch_size: windows a step
        n_pos: tokens of a window; the model's context where that is shorter
        learning_rate: that of the first step; it falls to 0
        seed: of the windows drawn
        save FOLDER: where the new lens goes
        overwrite: write it over a lens that is there
        target TOKEN: follow the probability and rank of this token, instead of the text's next ones
        top_k: so many of the likeliest tokens in --json

    Examples:
        cutaway interpret tuned-lens --demo
        cutaway interpret tuned-lens smollm2-135m --train-on stdlib --steps 50 --batch-size 1 --save smollm2-lens
        cutaway interpret tuned-lens smollm2-135m --lens smollm2-lens --text "The capital of France is"

    In Python:
        from cutaway import lens
        trained = lens.TunedLens.train(lm, text, n_steps=250)
        trained.save("smollm2-lens")
        lens.tuned_lens(lm, "The capital of France is", trained).show()
    """
    from cutaway.interp import lens as lenses
    from cutaway.interp.lens.tuned import DESCRIPTION

    if lens is not None:
        made = lenses.TunedLens.load(lens, lm.model)
    else:
        assert train_on is not None  # one of them is needed
        if save is not None:
            lenses.check_folder(save)
            check_new(save, DESCRIPTION, "a lens", overwrite=overwrite)
        recipe = {"n_steps": steps, "batch_size": batch_size, "n_pos": n_pos, "learning_rate": learning_rate, "seed": seed}
        made = replace(_trained(lm, train_on, recipe), model=source)
        if save is not None:
            made.save(save)
            stderr_console().print(f"The lens is in {save}.\n", style="dim", markup=False, soft_wrap=True)
    if text is not None:
        return lenses.tuned_lens(lm, text, made, target=target, top_k=top_k)
    if made.training is None:
        raise UsageError(f"the lens in {lens} was not trained here, so there is nothing to say of it: give a text with --text")
    return made.training


def _trained(lm: LanguageModel, train_on: str, recipe: dict[str, Any]) -> TunedLens:
    """Train a lens, and show on a terminal how far it is."""
    from cutaway.data import read_corpus, tokenize_corpus
    from cutaway.interp import lens as lenses

    ids = tokenize_corpus(read_corpus(train_on), lm.tokenizer)
    with step_progress() as progress:

        def show(n_done: int, n_total: int, kl: float) -> None:
            progress(n_done, n_total, f"KL {kl:.3f} nats")

        return lenses.TunedLens.train(lm, ids, corpus=train_on, progress=show, **recipe)
