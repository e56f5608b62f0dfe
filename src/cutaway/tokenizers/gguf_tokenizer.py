"""The tokenizer that a GGUF file describes in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutaway.tokenizers.byte_pair import BytePairTokenizer
from cutaway.tokenizers.merge_order import LetterPair
from cutaway.tokenizers.splits import LLAMA3_PATTERN, pattern_of_gguf

__all__ = ["tokenizer_from_gguf_fields"]

# Source: llama_token_type in ggml-org/llama.cpp, include/llama.h.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6


def tokenizer_from_gguf_fields(fields: Mapping[str, Any]) -> BytePairTokenizer:
    """Return the tokenizer of a GGUF file's fields, `tokenizer.ggml.model` and the rest, as plain Python values.

    Control tokens become special, user-defined ones added tokens; unused ones, which fill a matrix up, have no id here.
    Raises ValueError for a vocabulary that is not byte-level byte pairs, an unknown `tokenizer.ggml.pre`, and damage.
    """
    model, pre = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if model != "gpt2":
        raise ValueError(f"tokenizer.ggml.model is {model!r}; only 'gpt2', byte-level byte pairs, is supported")
    pattern = pattern_of_gguf(pre)
    if fields.get("tokenizer.ggml.add_eos_token", False):
        raise ValueError("tokenizer.ggml.add_eos_token is set, an end put after every text, which is not supported")
    tokens, kinds = _tokens_and_kinds(fields)
    ends = {name: _token_at(fields, f"tokenizer.ggml.{name}_id", tokens) for name in ("bos_token", "eos_token")}
    added = {token: place for place, token in enumerate(tokens) if kinds[place] == _USER_DEFINED}
    special = {
        token: place
        for place, token in enumerate(tokens)
        if kinds[place] in (_UNKNOWN, _CONTROL) or (token in ends.values() and kinds[place] != _USER_DEFINED)
    }
    is_llama3 = pattern == LLAMA3_PATTERN  # then words that are tokens are taken whole, and BOS is the default, as in llama.cpp
    return BytePairTokenizer.from_merges(
        {token: place for place, token in enumerate(tokens) if kinds[place] != _UNUSED},
        _merges(fields),
        pattern=pattern,
        special_tokens=special,
        added_tokens=added,
        ignores_merges=is_llama3,
        **ends,
        adds_bos=ends["bos_token"] is not None and bool(fields.get("tokenizer.ggml.add_bos_token", is_llama3)),
    )


def _tokens_and_kinds(fields: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return the tokens in letters and the kind of each; unused ones may all have the same name."""
    tokens = list(_sequence(fields, "tokenizer.ggml.tokens", str))
    kinds = list(_sequence(fields, "tokenizer.ggml.token_type", int))
    if len(kinds) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens; the file is damaged")
    if _BYTE in kinds:
        raise ValueError("tokenizer.ggml.token_type has byte tokens (6), which no byte-level vocabulary has")
    place_of = {token: place for place, token in enumerate(tokens) if kinds[place] != _UNUSED}
    if twice := [token for place, token in enumerate(tokens) if kinds[place] != _UNUSED and place_of[token] != place]:
        raise ValueError(f"tokenizer.ggml.tokens has {twice[0]!r} twice; give each token once")
    return tokens, kinds


def _merges(fields: Mapping[str, Any]) -> list[LetterPair]:
    merges = []
    for line in _sequence(fields, "tokenizer.ggml.merges", str):
        left, _, right = line.partition(" ")
        merges.append((left, right))
    return merges


def _sequence(fields: Mapping[str, Any], name: str, kind: type) -> Sequence[Any]:
    entries = fields.get(name)
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not all(isinstance(entry, kind) for entry in entries):
        wrong = "missing" if entries is None else f"no list of {kind.__name__}"
        raise ValueError(f"{name} is {wrong}; the file is damaged, or has no tokenizer")
    return entries


def _token_at(fields: Mapping[str, Any], name: str, tokens: Sequence[str]) -> str | None:
    place = fields.get(name)
    if place is None:
        return None
    if not isinstance(place, int) or not 0 <= place < len(tokens):
        raise ValueError(f"{name} is {place!r}; expected an id below the number of tokens, {len(tokens)}")
    return tokens[place]
