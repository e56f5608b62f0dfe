"""Which answer is asked about, against which."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.prompts import Prompts, Target

__all__ = ["Answers"]


@dataclass(frozen=True)
class Answers:
    """The tokens whose logits are asked about, by row; without `wrong` the logit itself, else the difference."""

    correct: list[int]
    wrong: list[int] | None
    said: tuple[str, ...]
    """What to tell the user of how they were taken."""

    @classmethod
    def of(cls, prompts: Prompts, logits: Float[Tensor, "batch d_vocab"], correct: Target | None, wrong: Target | None) -> Answers:
        """Return the answers to prompts; where no correct one is given, the model's own."""
        if correct is None:
            ids, said = logits.argmax(dim=-1).tolist(), ["The answer is the model's own, as none was given"]
        else:
            ids, said = prompts.target_ids(correct)
        if wrong is None:
            return cls(ids, None, tuple(said))
        wrong_ids, also_said = prompts.wrong_ids(wrong, ids)
        return cls(ids, wrong_ids, (*said, *also_said))

    def named(self, prompts: Prompts) -> str:
        """Return what is asked about in words: of one row its tokens."""
        if len(set(self.correct)) > 1 or len(set(self.wrong or [0])) > 1:
            return "logit of the answer" if self.wrong is None else "logit of the correct less that of the wrong answer"
        correct = prompts.label(self.correct[0])
        return f"logit of {correct}" if self.wrong is None else f"logit of {correct} less {prompts.label(self.wrong[0])}"
