"""What `cutaway demo` opens at its end: the model it trained and SmolLM2, in one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.interp.patching import PatchResult
    from cutaway.language_model import LanguageModel

__all__ = ["Stop", "STOPS", "SMOLLM2", "write_tour"]


@dataclass(frozen=True)
class Stop:
    """What is looked at in one model: a text, and two prompts that differ in one place with the answers that they want."""

    text: str
    clean: str
    corrupted: str
    correct: str
    wrong: str


_TEXT = "But soft, what light"
STOPS = {
    "tinyshakespeare": Stop(text=_TEXT, clean="\n\nROMEO", corrupted="\n\nFirst", correct=":", wrong=" "),  # First Citizen:
    "shakespeare": Stop(text=_TEXT, clean="\n\nTIMON", corrupted="\n\nFIRST", correct=".", wrong=" "),  # FIRST CITIZEN.
    "stdlib": Stop(text="    def __init__(self", clean="import o", corrupted="return o", correct="s", wrong="r"),
}
"""What is looked at in a model of characters, by its corpus: how the plays, in either edition, end the name of a speaker."""
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
            ("where the answer comes from", lambda lm=lm, stop=stop: _patched(lm, stop)),
        )
        for what, look in views:
            try:
                found = look()
            except ValueError as error:
                tell(f"{name}, {what}: {error}")
                continue
            found.add_to(page, heading=f"{name}: {what}")
            if isinstance(found, patching.PatchResult):
                page.add("", text=f"The clean prompt is {stop.clean!r}, the corrupted one {stop.corrupted!r}.")
    return page.write(path)


def _patched(lm: LanguageModel, stop: Stop) -> PatchResult:
    """Return what patching finds; raises ValueError for a model that does not give the answer, so that none can be traced."""
    from cutaway.interp import patching

    found = patching.patch(lm, stop.clean, stop.corrupted, stop.correct, stop.wrong)
    if not found.other.mean() > 0:
        raise ValueError(
            f"after {stop.clean!r} the model gives {stop.wrong!r} rather than {stop.correct!r}, so there is no answer to trace: "
            "train it longer"
        )
    return found
