"""Text to the token ids that are scored: which belong to the context, and which to its continuation."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from cutaway.language_model import LanguageModel

__all__ = ["first_token", "joint_ids", "separate_ids", "text_ids"]


def text_ids(lm: LanguageModel, text: str | Int[Tensor, " pos"] | Sequence[int], *, bos: bool | None = None) -> tuple[int, ...]:
    """Return the ids of a text as `lm.tokens` gives them, or ids as they are.

    Raises ValueError for fewer than two, of which none would be predicted, and for `bos` beside ids.
    """
    if not isinstance(text, str) and bos is not None:
        raise ValueError("bos is for a text that is encoded here: put the token before the ids yourself")
    ids = _ids(lm, text, bos=bos) if isinstance(text, str) else tuple(int(token) for token in text)
    if len(ids) < 2:
        raise ValueError("the text has fewer than two tokens and so nothing to predict: give a longer one")
    return ids


def joint_ids(lm: LanguageModel, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of a context and of what follows it when both are encoded together.

    As lm-evaluation-harness does (`TemplateLM._encode_pair`): blanks that end the context belong to the continuation, the context is
    encoded alone, and the continuation is what the whole has after as many tokens. An empty context becomes the token that begins or
    ends a text. Raises ValueError where nothing is left to score, or there is no such token.
    """
    if not context:
        return (first_token(lm),), _ids(lm, continuation, bos=False)
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    context_ids = _ids(lm, bare)
    continuation_ids = _ids(lm, bare + continuation)[len(context_ids) :]
    if not continuation_ids:
        raise ValueError(f"{continuation!r} has no tokens of its own after its context")
    return context_ids, continuation_ids


def separate_ids(lm: LanguageModel, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of a context and of a continuation, each encoded alone and nothing added."""
    return _ids(lm, context, bos=False), _ids(lm, continuation, bos=False)


def first_token(lm: LanguageModel) -> int:
    """Return the token that stands before a text: the one that begins texts, or else the one that ends them.

    Raises ValueError where the tokenizer has neither.
    """
    tokenizer = lm.tokenizer
    for token in (tokenizer.bos, tokenizer.eos, tokenizer.eot):
        if token is not None:
            return token
    raise ValueError(
        f"the {tokenizer.kind} tokenizer has no token that begins or ends a text, so an empty context cannot be scored"
    )


def _ids(lm: LanguageModel, text: str, *, bos: bool | None = None) -> tuple[int, ...]:
    return tuple(lm.tokens(text, bos=bos)[0].tolist())
