"""`cutaway interpret ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes
from cutaway.cli.interpret.options import analysis
from cutaway.cli.many_processes import shares_work
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["ablate"]


@shares_work
@excludes("head", "what", why="--head takes out that one head")
@excludes("head", "by_position", why="what the others do in response is shown for a mean over positions")
@analysis(text=("When Mary and John went to the store, John gave a drink to",), target="Mary", wrong="John")
def ablate(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    what: Literal["head", "layer", "attn", "mlp", "neuron", "position"] = "head",
    how: Literal["zero", "mean", "resample"] = "zero",
    layer: int | None = None,
    head: int | None = None,
    pos: int | None = None,
    target: str | None = None,
    wrong: str | None = None,
    reference: tuple[str, ...] = (),
    by_position: bool = False,
    seed: int = 0,
) -> Result:
    """Show what is lost without each head, layer, neuron or position: of the loss, or of an answer.

    With --layer and --head one head is taken out at the last position, and what all others add to the answer before and after is
    shown: the heads that step in for it. Michel et al. 2019; Wang et al. 2022; McGrath et al. 2023.

    Args:
        text: what is read; may be given again for the mean over several
        what: what is taken out at a time; neurons need --layer
        how: zeros, the mean over the reference (these texts unless given), or what it was in another text
        layer: that of the units, counted from 0; all unless given
        head: one head of --layer, to see what the others do in response
        pos: take out at this position alone, -1 the last
        target: an answer, one token, whose log-probability is measured instead of the loss
        wrong: a wrong answer: the difference of the two logits is measured
        reference: a text of the reference; may be given again
        by_position: with --how mean, the mean of each position by itself, over texts of as many tokens
        seed: of which text another one's activations come from

    Examples:
        cutaway interpret ablate --demo
        cutaway interpret ablate smollm2-135m --text "The capital of France is" --what layer --target Paris
        cutaway interpret ablate smollm2-135m --text "John and Mary went home. John called" --layer 23 --head 3

    In Python:
        from cutaway import ablation
        ablation.ablate(lm, text, what="head", how="zero", correct="Mary", wrong="John").ranked(top=5)
        ablation.backup_effects(lm, text, (23, 3), correct="Mary", wrong="John").show()
    """
    from cutaway.interp import ablation

    source = reference or None
    if head is None:
        asked = {"layers": layer, "pos": pos, "correct": target, "wrong": wrong, "reference": source, "seed": seed}
        asked |= {"by_position": by_position}
        with count_progress("ablations") as progress:
            return ablation.ablate(lm, text, what=what, how=how, progress=progress, **asked)  # type: ignore[arg-type]
    if layer is None:
        raise ValueError("a head is one of a layer: give --layer too")
    at = -1 if pos is None else pos
    return ablation.backup_effects(
        lm, text, (layer, head), correct=target, wrong=wrong, pos=at, how=how, reference=source, seed=seed
    )
