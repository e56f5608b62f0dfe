"""`cutaway interpret trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes
from cutaway.cli.interpret.options import analysis
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.tracing import TraceResult
    from cutaway.language_model import LanguageModel

__all__ = ["trace"]


@excludes("replacement", "noise", "seed", why="with another subject there is one run, without noise")
@analysis(text="The Eiffel Tower is in the city of", subject="The Eiffel Tower", target="Paris", draws=3)
def trace(
    lm: LanguageModel,
    *,
    text: str,
    subject: str,
    target: str,
    wrong: str | None = None,
    replacement: str | None = None,
    site: Literal["resid_post", "mlp_out", "attn_out"] | None = None,
    window: int | None = None,
    draws: int = 10,
    noise: float = 3.0,
    seed: int = 0,
    metric: Literal["logit_diff", "log_prob", "prob"] | None = None,
) -> TraceResult:
    """Corrupt the subject of a text, and show which clean states bring the answer back.

    The subject's embeddings get noise, or another subject takes its place; then the stream, MLP outputs or attention outputs of the
    clean run are restored, layer by layer and position by position. Meng et al. 2022, section 2.1.

    Args:
        text: what is read
        subject: the part of it that is corrupted
        target TOKEN: the answer, one token; Paris after a word is taken as " Paris"
        wrong TOKEN: a wrong answer: the difference of the two logits is measured
        replacement: another subject, instead of noise
        site: what is restored; all three unless given
        window: layers restored together; for the outputs a fifth of the model, for the stream one, unless given
        draws: runs with noise of their own, which are averaged; with another subject there is one
        noise: its size, in standard deviations of the embeddings
        seed: which noise is drawn
        metric: logit_diff where a wrong answer is given, else prob, unless given

    Examples:
        cutaway interpret trace --demo
        cutaway interpret trace --demo --replacement "The Empire State Building" --wrong London

    In Python:
        tracing.trace(lm, text, "The Eiffel Tower", "Paris").effects["mlp_out"]   # layer pos
    """
    from cutaway.interp import tracing

    chosen = {} if site is None else {"sites": (site,)}
    settings = {"replacement": replacement, "window": window, "n_draws": draws, "noise": noise, "seed": seed, "metric": metric}
    with count_progress("states") as progress:
        return tracing.trace(lm, text, subject, target, wrong, progress=progress, **settings, **chosen)  # type: ignore[arg-type]
