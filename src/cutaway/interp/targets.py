"""The one token that a text names, as the answer that a model is asked about."""

from __future__ import annotations

from cutaway.language_model import LanguageModel

__all__ = ["single_token"]

_ENDS_A_WORD = frozenset(",.;:!?)")


def single_token(lm: LanguageModel, text: str, *, after: str = "") -> tuple[int, str]:
    """Return the id of the token that a text is, and what to tell the user where it was not taken as it was given, else "".

    After a prompt that ends in a word, `Paris` is taken as ` Paris`, where that is one token; a digit after a digit stays as it is.
    Raises ValueError for a text that is not one token, with the pieces that it is, and for a token that the model has no logit for.

    >>> import cutaway
    >>> from cutaway.interp.targets import single_token
    >>> single_token(cutaway.load("ioi-mini"), "Mary", after="When John and Mary went to the store , John gave a drink to")
    (0, "Mary is taken as ' Mary', with its space")
    """
    if not text:
        raise ValueError("the target is empty: give a text that is one token")
    if (special := lm.tokenizer.special_tokens.get(text)) is not None:
        return _with_logit(lm, special, text), ""
    if _needs_space(text, after):
        ids = _ids(lm, f" {text}")
        if len(ids) == 1:
            return _with_logit(lm, ids[0], f" {text}"), f"{text} is taken as {' ' + text!r}, with its space"
    ids = lm.tokenizer.encode(text)
    if len(ids) == 1:
        return _with_logit(lm, ids[0], text), ""
    raise ValueError(_not_one(lm, text, after, ids))


def _needs_space(text: str, after: str) -> bool:
    if not after or text[0].isspace() or not text[0].isalnum() or (text[0].isdigit() and after[-1].isdigit()):
        return False
    return after[-1].isalnum() or after[-1] in _ENDS_A_WORD


def _ids(lm: LanguageModel, text: str) -> list[int]:
    """Return the ids of a text, none where the vocabulary lacks a character of it."""
    try:
        return lm.tokenizer.encode(text)
    except ValueError:
        return []


def _not_one(lm: LanguageModel, text: str, after: str, ids: list[int]) -> str:
    spaced = _ids(lm, f" {text}") if _needs_space(text, after) else []
    shown = f" {text}" if spaced else text
    pieces = [lm.tokenizer.decode([each]) for each in spaced or ids]
    listed = ", ".join(map(repr, pieces))
    return f"{shown!r} is not one token but {len(pieces)}: {listed}; give a text that is one token, as the first of these is"


def _with_logit(lm: LanguageModel, token: int, text: str) -> int:
    if token >= (n_logits := lm.config.d_vocab_out):
        raise ValueError(f"{text!r} is token {token} and the model has logits for the first {n_logits} alone: give another")
    return token
