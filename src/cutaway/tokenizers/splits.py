"""How text is cut into the words that byte pairs stay within: patterns by the names that files give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cutaway.tokenizers.byte_level import CL100K_PATTERN, GPT2_PATTERN

__all__ = ["SMOLLM_PATTERN", "LLAMA3_PATTERN", "QWEN2_PATTERN", "pattern_of_gguf", "pattern_of_pre_tokenizer", "pre_tokenizer_of"]

_NUMBERS_APART_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""GPT-2's cut after runs of digits were set apart: none has a space before it, and blanks before one end as a text's last do."""

SMOLLM_PATTERN = _NUMBERS_APART_PATTERN.replace(r"\p{N}+|", r"\p{N}|")
"""The same with every digit by itself: what SmolLM2's and StarCoder's files name `Digits(individual_digits)`, then `ByteLevel`."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's. Source: its tokenizer.json, and LLAMA_VOCAB_PRE_TYPE_LLAMA3 in ggml-org/llama.cpp, src/llama-vocab.cpp."""

QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen 2's: Llama 3's with every digit by itself. Source: as above, LLAMA_VOCAB_PRE_TYPE_QWEN2."""

# Which names share a pattern: ggml-org/llama.cpp, src/llama-vocab.cpp. Its "default" is what it takes when a converter did not know
# the vocabulary, not what the model was trained with.
_PATTERN_OF_GGUF = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), GPT2_PATTERN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), SMOLLM_PATTERN),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3_PATTERN),
    **dict.fromkeys(("qwen2", "stablelm2"), QWEN2_PATTERN),
}

# What Hugging Face's engine, Oniguruma, reads in another way: `$` and `^` stand at every line there, and `{1,3}+` repeats.
_READ_OTHERWISE = re.compile(r"(?<!\\)[$]|(?<![\\\[])\^|\{\d*,?\d*\}\+")
_IN_ONIGURUMA = {CL100K_PATTERN: CL100K_PATTERN.replace(r"{1,3}+", r"{1,3}").replace(r"\s++$", r"\s++\z")}
_FROM_ONIGURUMA = {theirs: ours for ours, theirs in _IN_ONIGURUMA.items()}

_COVERING = {GPT2_PATTERN, SMOLLM_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN, *_IN_ONIGURUMA}
"""Patterns with an alternative for every character."""


def pattern_of_gguf(name: object) -> str:
    """Return the pattern that `tokenizer.ggml.pre` names. Raises ValueError for a name that is not known, and for none."""
    if not isinstance(name, str) or name not in _PATTERN_OF_GGUF:
        raise ValueError(
            f"tokenizer.ggml.pre is {name!r}, a way to cut text that is not known here; known are {', '.join(_PATTERN_OF_GGUF)}"
        )
    return _PATTERN_OF_GGUF[name]


def pattern_of_pre_tokenizer(structure: Mapping[str, Any] | None) -> str:
    """Return the pattern that cuts text as the `pre_tokenizer` of a tokenizer.json does.

    Raises ValueError for a structure that is not byte-level, or cannot be had exactly on tiktoken's engine.
    """
    parts = _parts(structure)
    kinds = [part.get("type") for part in parts]
    if not kinds or kinds[-1] != "ByteLevel":
        raise ValueError(f"pre_tokenizer is {_shown(kinds)}; expected a byte-level vocabulary, whose text ByteLevel cuts last")
    if parts[-1].get("add_prefix_space", True):
        raise ValueError("pre_tokenizer ByteLevel has add_prefix_space, a blank put before every text, which is not supported")
    cuts_as_gpt2 = parts[-1].get("use_regex", True)
    match kinds, cuts_as_gpt2:
        case ["ByteLevel"], True:
            return GPT2_PATTERN
        case ["Digits", "ByteLevel"], True:
            return SMOLLM_PATTERN if parts[0].get("individual_digits", False) else _NUMBERS_APART_PATTERN
        case ["Split", "ByteLevel"], False:
            return _pattern_of_split(parts[0])
    raise ValueError(
        f"pre_tokenizer is {_shown(kinds)} with use_regex {cuts_as_gpt2}, which is not supported; "
        "expected ByteLevel, Digits then ByteLevel, or Split then ByteLevel without use_regex"
    )


def pre_tokenizer_of(pattern: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a tokenizer.json that cuts text as a pattern does.

    Raises ValueError for a pattern that Hugging Face's engine would read in another way.
    """
    if pattern == GPT2_PATTERN:
        return _byte_level(use_regex=True)
    if pattern in (SMOLLM_PATTERN, _NUMBERS_APART_PATTERN):
        digits = {"type": "Digits", "individual_digits": pattern == SMOLLM_PATTERN}
        return _sequence(digits, _byte_level(use_regex=True))
    theirs = _IN_ONIGURUMA.get(pattern, pattern)
    if theirs == pattern:
        _check_is_read_alike(pattern)
    split = {"type": "Split", "pattern": {"Regex": theirs}, "behavior": "Isolated", "invert": False}
    return _sequence(split, _byte_level(use_regex=False))


def _pattern_of_split(split: Mapping[str, Any]) -> str:
    pattern = dict(split["pattern"]).get("Regex")
    if pattern is None or split.get("behavior") != "Isolated" or split.get("invert", False):
        raise ValueError(
            f"pre_tokenizer Split has pattern {split['pattern']!r}, behavior {split.get('behavior')!r} and invert "
            f"{split.get('invert', False)}; expected a Regex, Isolated, without invert"
        )
    if pattern in _FROM_ONIGURUMA:
        return _FROM_ONIGURUMA[pattern]
    _check_is_read_alike(pattern)
    begins = pattern[: (len(pattern) - len(_with_gaps(""))) // 2]
    return pattern if pattern in _COVERING or pattern == _with_gaps(begins) else _with_gaps(pattern)


def _with_gaps(pattern: str) -> str:
    """Return the pattern that also takes what lies between two matches: one piece there, which here the pattern has to say."""
    return rf"{pattern}|(?:(?!{pattern})[\s\S])+"


def _check_is_read_alike(pattern: str) -> None:
    if found := _READ_OTHERWISE.search(pattern):
        raise ValueError(
            f"the pattern {pattern!r} that cuts text has {found.group()!r}, which tiktoken's engine and Hugging Face's read "
            "differently, so the ids could not be the same"
        )


def _parts(structure: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return a pre-tokenizer as a list, sequences within sequences laid out."""
    if structure is None:
        return []
    if structure.get("type") != "Sequence":
        return [structure]
    return [part for inner in structure["pretokenizers"] for part in _parts(inner)]


def _shown(kinds: list[Any]) -> str:
    return " then ".join(map(str, kinds)) or "not set"


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
