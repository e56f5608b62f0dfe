from typing import Any

import pytest

from cutaway.tokenizers import CL100K_PATTERN, GPT2_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN
from cutaway.tokenizers.splits import pattern_of_gguf, pattern_of_pre_tokenizer, pre_tokenizer_of

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
WITHOUT_REGEX = BYTE_LEVEL | {"use_regex": False}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def split(regex: str, **changes: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} | changes


def test_gguf_names():
    assert pattern_of_gguf("gpt-2") == pattern_of_gguf("phi-2") == GPT2_PATTERN
    assert pattern_of_gguf("smollm") == SMOLLM_PATTERN
    assert pattern_of_gguf("llama-bpe") == LLAMA3_PATTERN
    assert pattern_of_gguf("qwen2") == QWEN2_PATTERN
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre is 'tekken', a way to cut text that is not known here"):
        pattern_of_gguf("tekken")


def test_structures_with_names():
    digits = {"type": "Digits", "individual_digits": True}
    assert pattern_of_pre_tokenizer(BYTE_LEVEL) == GPT2_PATTERN
    assert pattern_of_pre_tokenizer(sequence(digits, BYTE_LEVEL)) == SMOLLM_PATTERN
    assert pattern_of_pre_tokenizer(sequence(sequence(digits), BYTE_LEVEL)) == SMOLLM_PATTERN
    assert pattern_of_pre_tokenizer(sequence(split(LLAMA3_PATTERN), WITHOUT_REGEX)) == LLAMA3_PATTERN


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, SMOLLM_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN, CL100K_PATTERN])
def test_what_is_written_is_read(pattern: str):
    assert pattern_of_pre_tokenizer(pre_tokenizer_of(pattern)) == pattern


@pytest.mark.parametrize(
    ("structure", "complaint"),
    [
        (None, "pre_tokenizer is not set; expected a byte-level vocabulary"),
        ({"type": "Metaspace", "replacement": "▁"}, "pre_tokenizer is Metaspace"),
        ({"type": "Whitespace"}, "pre_tokenizer is Whitespace"),
        ({"type": "ByteLevel", "add_prefix_space": True}, "add_prefix_space"),
        ({"type": "ByteLevel"}, "add_prefix_space"),  # which is the library's default
        (WITHOUT_REGEX, "pre_tokenizer is ByteLevel with use_regex False"),
        (sequence(split("a"), BYTE_LEVEL), "Split then ByteLevel with use_regex True"),
        (sequence({"type": "Punctuation"}, BYTE_LEVEL), "Punctuation then ByteLevel"),
        (sequence(split("a", behavior="Removed"), WITHOUT_REGEX), "behavior 'Removed'"),
        (sequence(split("a", invert=True), WITHOUT_REGEX), "invert True"),
        (sequence(split("a", pattern={"String": "a"}), WITHOUT_REGEX), "expected a Regex"),
        (
            sequence(split(r"\p{N}{1,3}+"), WITHOUT_REGEX),
            r"has '\{1,3\}\+', which tiktoken's engine and Hugging Face's read differently",
        ),
        (sequence(split(r"\s+$"), WITHOUT_REGEX), r"has '\$', which"),
        (sequence(split("^a"), WITHOUT_REGEX), r"has '\^', which"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused(structure: dict[str, Any] | None, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        pattern_of_pre_tokenizer(structure)
