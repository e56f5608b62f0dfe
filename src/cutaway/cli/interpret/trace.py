"""`cutaway interpret trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cutaway.cli.command import excludes
from cutaway.cli.interpret.options import analysis
from cutaway.cli.many_processes import shares_work
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.tracing import AverageTrace, TraceResult
    from cutaway.language_model import LanguageModel

__all__ = ["trace"]


_LINES = {"text": "text", "subject": "subject", "target": "correct", "wrong": "wrong", "replacement": "replacement"}


@shares_work
@excludes("replacement", "noise", "seed", why="with another subject there is one run, without noise")
@analysis(_LINES, text=("The Eiffel Tower is in the city of",), subject=("The Eiffel Tower",), target=("Paris",), draws=3)
def trace(
    lm: LanguageModel,
    *,
    text: tuple[str, ...],
    subject: tuple[str, ...],
    target: tuple[str, ...],
    wrong: tuple[str, ...] = (),
    replacement: tuple[str, ...] = (),
    site: Literal["resid_post", "mlp_out", "attn_out"] | None = None,
    window: int | None = None,
    draws: int = 10,
    noise: float = 3.0,
    seed: int = 0,
    metric: Literal["logit_diff", "log_prob", "prob"] | None = None,
) -> TraceResult | AverageTrace:
    """Corrupt the subject of a text, and show which clean states bring the answer back.

    The subject's embeddings get noise, or another subject takes its place; then the stream, MLP outputs or attention outputs of the
    clean run are restored, layer by layer and position by position. Meng et al. 2022, section 2.1.

    Args:
        text: what is read; may be given again, for the average over several, by layer and part of the prompt
        subject: the part of it that is corrupted; one for each text
        target TOKEN: the answer, one token; Paris after a word is taken as " Paris"; one for all texts, or one for each
        wrong TOKEN: a wrong answer: the difference of the two logits is measured
        replacement: another subject, instead of noise; one for each text
        site: what is restored; all three unless given
        window: layers restored together; for the outputs a fifth of the model, for the stream one, unless given
        draws: runs with noise of their own, which are averaged; with another subject there is one
        noise: its size, in standard deviations of the embeddings
        seed: which noise is drawn
        metric: logit_diff where a wrong answer is given, else prob, unless given

    Examples:
        cutaway interpret trace --demo
        cutaway interpret trace --demo --replacement "The Empire State Building" --wrong London
        cutaway interpret trace smollm2-135m --prompts facts.jsonl --draws 5

    In Python:
        from cutaway import tracing
        found = tracing.trace(lm, text, "The Eiffel Tower", "Paris")
        found.effects["mlp_out"]   # layer pos
    """
    from cutaway.interp import tracing

    settings: dict[str, Any] = {"window": window, "n_draws": draws, "noise": noise, "seed": seed, "metric": metric}
    settings |= {} if site is None else {"sites": (site,)}
    subjects, answers, others, replacements = (_for_each(text, given) for given in (subject, target, wrong, replacement))
    assert subjects is not None
    assert answers is not None
    with count_progress("states") as progress:
        if max(map(len, (text, subject, target, wrong, replacement))) > 1:
            settings |= {"replacements": replacements, "progress": progress}
            return tracing.average_trace(lm, text, subjects, answers, others, **settings)
        settings |= {"replacement": replacements[0] if replacements else None, "progress": progress}
        return tracing.trace(lm, text[0], subjects[0], answers[0], others[0] if others else None, **settings)


def _for_each(texts: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what was given once as often as there are texts, and nothing as None."""
    return None if not given else given * len(texts) if len(given) == 1 else given
