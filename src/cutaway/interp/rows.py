"""Texts or tokens as rows, with how many tokens each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

__all__ = ["Rows", "Texts", "Reference", "rows_of", "one_row", "some_texts", "model_of", "token_texts"]

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


def some_texts(texts: Texts, rows: Sequence[int]) -> list[str] | Int[Tensor, "some pos"]:
    """Return some of several texts, or of rows of tokens."""
    return texts[list(rows)] if isinstance(texts, Tensor) else [texts[row] for row in rows]


def model_of(lm: LanguageModel | Transformer) -> Transformer:
    """Return the model of a language model, or the model itself."""
    return lm.model if isinstance(lm, LanguageModel) else lm


def rows_of(lm: LanguageModel | Transformer, texts: Texts | Reference | Sequence[object]) -> Rows:
    """Return texts as rows; raises ValueError for texts without a tokenizer, and for uneven ones in a model that sees what fills up."""
    if isinstance(texts, Tensor):
        if texts.ndim != 2 or not texts.numel():
            raise ValueError(f"the tokens have the shape {list(texts.shape)}; expected rows of them, batch and pos")
        return Rows(texts, (texts.shape[1],) * len(texts))
    if not isinstance(lm, LanguageModel):
        raise ValueError(  # noqa: TRY004  (what a user gave, said in a sentence)
            "a text needs a tokenizer: give the LanguageModel, as cutaway.load returns it, or tokens"
        )
    each = [texts] if isinstance(texts, str) else [text for text in texts if isinstance(text, str)]
    if not each or (len(each) < len(texts) and not isinstance(texts, str)):
        raise ValueError(f"{_shown(texts)} is no text and no list of texts: give texts, or tokens as a tensor of batch and pos")
    rows = Rows(lm.tokens(each), tuple(lm.tokens(text).shape[1] for text in each))
    if not (rows.is_even or lm.config.is_causal):
        raise ValueError("a bidirectional model would see what fills up the shorter rows: give texts of as many tokens each")
    return rows


def one_row(
    lm: LanguageModel, text: str | Int[Tensor, "..."] | Sequence[object], *, bos: bool | None = None
) -> Int[Tensor, "1 pos"]:
    """Return one text, or one row of ids, as a row on the model's device; raises ValueError for several."""
    if isinstance(text, str):
        return lm.tokens(text, bos=bos)
    if bos is not None:
        raise ValueError("bos is for a text that is encoded here: put the token before the ids yourself")
    if not isinstance(text, Tensor) and not all(isinstance(each, int) for each in text):
        raise ValueError(f"{_shown(text)} is not one text: this is shown of one at a time, so give each by itself")
    ids = torch.as_tensor(text, device=lm.model.embed.W_E.device)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"the ids have the shape {list(ids.shape)}; expected one row of them, as lm.tokens gives for one text")
    return ids[None]


def token_texts(lm: LanguageModel | Transformer, tokens: Int[Tensor, " pos"]) -> list[str]:
    """Return the text of each token; its number where it has none."""
    if not isinstance(lm, LanguageModel):
        return [str(token) for token in tokens.tolist()]
    unused, n = set(lm.tokenizer.unused_ids), lm.tokenizer.d_vocab
    return [lm.tokenizer.decode([token]) if token < n and token not in unused else str(token) for token in tokens.tolist()]


def _shown(given: object) -> str:
    shown = repr(given)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
