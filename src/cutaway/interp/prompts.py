"""Prompts as every analysis reads them: rows of tokens, where each is asked about, and the tokens that answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from cutaway.interp.rows import Texts, model_of, rows_of
from cutaway.interp.targets import single_token
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import token_label
from cutaway.tokenizers import NoTokenizer

__all__ = ["Target", "Prompts", "read_prompts"]

Target = str | int | Sequence[int] | Sequence[str] | Int[Tensor, " batch"]
"""A token by its text or its id, the same for every row or each row's own."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Rows of tokens with the position of each that is asked about."""

    lm: LanguageModel | Transformer
    tokens: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]
    """How many of its tokens each row has; the others fill it up on the right."""
    positions: tuple[int, ...]
    """Where each is asked about, counted from its beginning."""

    @classmethod
    def of(cls, lm: LanguageModel | Transformer, texts: Texts, *, pos: int | Sequence[int] = -1) -> Prompts:
        """Return the prompts of a text, several, or tokens; raises ValueError for positions that a row does not have."""
        rows = rows_of(lm, texts)
        given = [pos] * len(rows.lengths) if isinstance(pos, int) else list(pos)
        if len(given) != len(rows.lengths):
            raise ValueError(f"there are {len(given)} positions for {len(rows.lengths)} rows: give one, or one for each row")
        for each, n_pos in zip(given, rows.lengths, strict=True):
            if not -n_pos <= each < n_pos:
                raise ValueError(f"there is no position {each}; there are {n_pos}, 0 to {n_pos - 1}")
        return cls(lm, rows.tokens, rows.lengths, tuple(each % n_pos for each, n_pos in zip(given, rows.lengths, strict=True)))

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, row: int) -> list[int]:
        """Return the tokens of a row."""
        ids: list[int] = self.tokens[row, : self.lengths[row]].tolist()
        return ids

    @property
    def ragged_lengths(self) -> tuple[int, ...] | None:
        """The lengths where rows are filled up; None where none is."""
        return None if set(self.lengths) == {self.tokens.shape[1]} else self.lengths

    @property
    def model(self) -> Transformer:
        """The model without its tokenizer."""
        return model_of(self.lm)

    @property
    def words(self) -> LanguageModel | None:
        """The model with its tokenizer, None where there are ids alone."""
        return self.lm if isinstance(self.lm, LanguageModel) and not isinstance(self.lm.tokenizer, NoTokenizer) else None

    def label(self, token: int) -> str:
        """Return a token's visible text, or its id where there is no tokenizer."""
        return str(token) if self.words is None else token_label(self.words.text([token]))

    def text(self, row: int) -> str:
        """Return a row up to the position that is asked about."""
        ids = self.tokens[row, : self.positions[row] + 1]
        return " ".join(map(str, ids.tolist())) if self.words is None else self.words.text(ids)

    def source_labels(self) -> list[str]:
        """Return a name for each position: its token's too where there is one row."""
        places = [str(place) for place in range(self.tokens.shape[1])]
        if len(self.tokens) > 1:
            return [f"pos {place}" for place in places]
        return [f"{place} {self.label(int(token))}" for place, token in zip(places, self.tokens[0], strict=True)]

    def target_ids(self, target: Target) -> tuple[list[int], list[str]]:
        """Return a target's token for each row, and what to tell the user of how it was taken.

        Raises ValueError for a text that is not one token, and for another number of targets than rows.
        """
        given = [target] if isinstance(target, str | int) else list(target)
        each: list[int | str] = [one if isinstance(one, str) else int(one) for one in given]
        if len(each) not in (1, len(self)):
            raise ValueError(f"there are {len(each)} answers for {len(self)} prompts: give one for all, or one for each")
        each = each * len(self) if len(each) == 1 else each
        found = [self._id(one, row) for row, one in enumerate(each)]
        said = list(dict.fromkeys(said for _, said in found if said))
        if len(said) > 2:
            said = [f"{said[0]}, and so are {len(said) - 1} others"]
        return [token for token, _ in found], said

    def wrong_ids(self, wrong: Target, correct: Sequence[int]) -> tuple[list[int], list[str]]:
        """Return the wrong answer's tokens as `target_ids` does; raises ValueError where one is the correct answer itself."""
        found, said = self.target_ids(wrong)
        if same := [token for token, other in zip(found, correct, strict=True) if token == other]:
            raise ValueError(f"the answer and the wrong answer are one token ({self.label(same[0])}): give another wrong answer")
        return found, said

    def _id(self, target: int | str, row: int) -> tuple[int, str]:
        if isinstance(target, int):
            return target, ""
        if self.words is None:
            raise ValueError(f"the target {target!r} is a text, which needs a tokenizer: give the LanguageModel, or the token's id")
        return single_token(self.words, target, after=self.text(row))


def read_prompts(lm: LanguageModel, texts: Texts) -> Prompts:
    """Return prompts that are asked about at their ends; raises ValueError also for more tokens than the model reads."""
    prompts = Prompts.of(lm, texts)
    if (n_pos := prompts.tokens.shape[1]) > lm.config.n_ctx:
        raise ValueError(f"a prompt has {n_pos} tokens and the model reads {lm.config.n_ctx}: give a shorter one")
    return prompts
