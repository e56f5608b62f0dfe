"""What `cutaway demo` opens at its end: the model it trained and SmolLM2, in one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.language_model import LanguageModel

__all__ = ["Stop", "PLAYS", "LIBRARY", "SMOLLM2", "write_tour"]


@dataclass(frozen=True)
class Stop:
    """What is looked at in one model: a text, and two prompts that differ in one place with the answers that they want."""

    text: str
    clean: str
    corrupted: str
    correct: str
    wrong: str


PLAYS = Stop(text="But soft, what light", clean="\nROMEO", corrupted="\nROMAN", correct=":", wrong=" ")
"""For characters of Shakespeare: after the name of a speaker a colon."""
LIBRARY = Stop(text="    def __init__(self", clean="import o", corrupted="return o", correct="s", wrong="r")
"""For the source of Python's standard library."""
SMOLLM2 = Stop(
    text="The capital of France is",
    clean="When Mary and John went to the store, John gave a drink to",
    corrupted="When Mary and John went to the store, Mary gave a drink to",
    correct=" Mary",
    wrong=" John",
)
"""The best known prompt of the field (Wang et al. 2022)."""


def write_tour(models: dict[str, tuple[LanguageModel, Stop]], path: Path, *, tell: Callable[[str], None]) -> Path:
    """Write one page with the logit lens, the strongest heads and a patching heat map of each model, and return where.

    `tell` hears what a model has no answer to: the rest of the page is written all the same.
    """
    from cutaway.interp import heads, lens, patching
    from cutaway.report import HtmlReport

    page = HtmlReport("Two models, opened", subtitle=" and ".join(models))
    for name, (lm, stop) in models.items():
        views = (
            ("what each layer would say", lambda lm=lm, stop=stop: lens.logit_lens(lm, stop.text)),
            ("what its heads do", lambda lm=lm: heads.detect_heads(lm)),
            (
                "where the answer comes from",
                lambda lm=lm, stop=stop: patching.patch(lm, stop.clean, stop.corrupted, stop.correct, stop.wrong),
            ),
        )
        for what, look in views:
            try:
                look().add_to(page, heading=f"{name}: {what}")
            except ValueError as error:
                tell(f"{name}, {what}: {error}")
    return page.write(path)
