"""Texts or tokens as rows, with how many tokens each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

__all__ = ["Rows", "Texts", "Reference", "rows_of", "model_of", "token_texts"]

Texts = str | Sequence[str] | Int[Tensor, "batch pos"]
"""A text, several, or their tokens, all rows of one length."""

Reference = str | Sequence[str] | Int[Tensor, "reference reference_pos"]
"""The same, of what replacements are taken from; as many rows as there are, of any length."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of tokens, the shorter ones filled up on the right."""

    tokens: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]

    @property
    def is_even(self) -> bool:
        """Whether no row is filled up."""
        return set(self.lengths) == {self.tokens.shape[1]}


def model_of(lm: LanguageModel | Transformer) -> Transformer:
    """Return the model of a language model, or the model itself."""
    return lm.model if isinstance(lm, LanguageModel) else lm


def rows_of(lm: LanguageModel | Transformer, texts: Texts | Reference) -> Rows:
    """Return texts as rows; raises ValueError for texts without a tokenizer, and for uneven ones in a model that sees what fills up."""
    if isinstance(texts, Tensor):
        if texts.ndim != 2 or not texts.numel():
            raise ValueError(f"the tokens have the shape {list(texts.shape)}; expected rows of them, batch and pos")
        return Rows(texts, (texts.shape[1],) * len(texts))
    if not isinstance(lm, LanguageModel):
        raise ValueError(  # noqa: TRY004  (what a user gave, said in a sentence)
            "a model without a tokenizer reads tokens, not texts: give a LanguageModel, or the tokens"
        )
    each = [texts] if isinstance(texts, str) else list(texts)
    rows = Rows(lm.tokens(each), tuple(lm.tokens(text).shape[1] for text in each))
    if not (rows.is_even or lm.config.is_causal):
        raise ValueError("a bidirectional model would see what fills up the shorter rows: give texts of as many tokens each")
    return rows


def token_texts(lm: LanguageModel | Transformer, tokens: Int[Tensor, " pos"]) -> list[str]:
    """Return the text of each token; its number where it has none."""
    if not isinstance(lm, LanguageModel):
        return [str(token) for token in tokens.tolist()]
    unused, n = set(lm.tokenizer.unused_ids), lm.tokenizer.d_vocab
    return [lm.tokenizer.decode([token]) if token < n and token not in unused else str(token) for token in tokens.tolist()]
