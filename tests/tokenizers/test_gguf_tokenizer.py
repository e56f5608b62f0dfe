from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tokenizers
from cutaway.tokenizers import BPETokenizer, BytePairTokenizer, to_letters, tokenizer_from_gguf_fields, tokenizer_hash
from cutaway.tokenizers.byte_level import BYTES
from tokenizers import models, pre_tokenizers

DIGITS_APART = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)


def oracle_of(fields: dict[str, Any]) -> tokenizers.Tokenizer:
    id_of = {token: token_id for token_id, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    oracle = tokenizers.Tokenizer(models.BPE(id_of, merges))
    oracle.pre_tokenizer = DIGITS_APART
    return oracle


@pytest.fixture(scope="module")
def fields(trained: BPETokenizer) -> dict[str, Any]:
    """A file as SmolLM2's, with a vocabulary trained here: special tokens first, and two user-defined ones and a filler last."""
    merges = [f"{to_letters(left)} {to_letters(right)}" for left, right in trained.merges]
    ordinary = [*map(to_letters, BYTES), *(merge.replace(" ", "") for merge in merges)]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *ordinary, "  ", "    ", "[PAD]", "[PAD]"],
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * len(ordinary), 4, 4, 5, 5],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def test_what_the_fields_say(fields: dict[str, Any]):
    tokenizer = tokenizer_from_gguf_fields(fields)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.adds_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.eot) == (1, 2, 0)
    assert list(tokenizer.special_tokens) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    n_ids = len(fields["tokenizer.ggml.tokens"]) - 2
    assert tokenizer.added_tokens == {"  ": n_ids - 2, "    ": n_ids - 1}
    assert tokenizer.d_vocab == n_ids  # the fillers at the end are no tokens: n_ids never offers them to sampling
    assert tokenizer.unused_ids == []
    assert tokenizer.encode("a     1")[1:3] == [n_ids - 1, tokenizer.encode(" ")[0]]
    assert tokenizer.encode("<|im_start|>", allow_special=True) == [1]
    assert tokenizer_from_gguf_fields(fields | {"tokenizer.ggml.add_bos_token": True}).adds_bos
    assert tokenizer_hash(type(tokenizer)().load_state_dict(tokenizer.state_dict())) == tokenizer_hash(tokenizer)


@pytest.fixture(scope="module")
def without_added(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    return fields | {name: fields[name][:-4] for name in names}


@pytest.fixture(scope="module")
def tokenizer(without_added: dict[str, Any]) -> BytePairTokenizer:
    return tokenizer_from_gguf_fields(without_added)


@pytest.fixture(scope="module")
def oracle(without_added: dict[str, Any]) -> tokenizers.Tokenizer:
    return oracle_of(without_added)


@settings(max_examples=1000)
@given(data=st.data())
def test_ids_are_hugging_faces(
    tokenizer: BytePairTokenizer, oracle: tokenizers.Tokenizer, texts: st.SearchStrategy[str], data: st.DataObject
):
    text = data.draw(texts)
    assert tokenizer.encode(text) == oracle.encode(text).ids


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; only 'gpt2'"),
        ({"pre": "viking"}, "tokenizer.ggml.pre is 'viking', .* known are gpt-2, phi-2, .*smollm"),
        ({"pre": "default"}, "tokenizer.ggml.pre is 'default'"),
        ({"pre": None}, "tokenizer.ggml.pre is None"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is no list of str"),
        ({"merges": [1, 2]}, "tokenizer.ggml.merges is no list of str"),
        ({"merges": ["ab"]}, "the merge 'ab ' needs the tokens 'ab', '' and 'ab'"),
        ({"merges": ["zz q"]}, "the merge 'zz q' needs"),
        ({"token_type": 3}, "tokenizer.ggml.token_type is no list of int"),
        ({"token_type": None}, "tokenizer.ggml.token_type is missing"),
        ({"token_type": [6] * 1005}, "has byte tokens"),
        ({"pre": ["smollm"]}, r"tokenizer.ggml.pre is \['smollm'\]"),
        ({"token_type": [1]}, "token_type has 1 entries for"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000; expected an id below the number of tokens"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"add_eos_token": True}, "add_eos_token is set"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[str, Any], changes: dict[str, Any], complaint: str):
    changed = fields | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    with pytest.raises(ValueError, match=complaint):
        tokenizer_from_gguf_fields({name: value for name, value in changed.items() if value is not None})


def test_a_token_that_comes_twice_is_refused(fields: dict[str, Any]):
    tokens = fields["tokenizer.ggml.tokens"]
    with pytest.raises(ValueError, match="has 'Ġ' twice"):
        tokenizer_from_gguf_fields(fields | {"tokenizer.ggml.tokens": [*tokens[:-3], "Ġ", *tokens[-2:]]})


# SmolLM2's own vocabulary, where the model was downloaded

LACKING = set("\x04\x06\x13\x14\x16\x1d")
"""Control characters whose bytes SmolLM2's vocabulary lacks: Hugging Face drops them without a word, here they are refused."""


@pytest.fixture(scope="module")
def smollm2(smollm2_fields: dict[str, Any]):
    return tokenizer_from_gguf_fields(smollm2_fields)


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2_fields: dict[str, Any]) -> tokenizers.Tokenizer:
    return oracle_of(smollm2_fields)


@settings(max_examples=3000)
@given(data=st.data())
def test_smollm2s_ids_are_hugging_faces(smollm2, smollm2_oracle, texts: st.SearchStrategy[str], data: st.DataObject):
    text = data.draw(texts)
    assume(LACKING.isdisjoint(text))
    assert smollm2.encode(text) == smollm2_oracle.encode(text).ids


def test_smollm2s_ids_of_mixtures_are_hugging_faces(smollm2, smollm2_oracle, mixtures: Callable[[int], list[str]], corpus: str):
    for text in [*mixtures(5000), corpus]:
        assert smollm2.encode(text) == smollm2_oracle.encode(text).ids
        assert smollm2.decode(smollm2.encode(text)) == text


def test_every_character_of_the_basic_plane_has_hugging_faces_ids(smollm2, smollm2_oracle):
    # Two engines with tables of letters, digits and spaces of their own.
    for first in [*range(0, 0xD800, 256), *range(0xE000, 0x10000, 256)]:
        characters = [chr(code) for code in range(first, first + 256) if chr(code) not in LACKING]
        text = "".join(f"a{each} {each}1{each}! \t{each}'s 7 {each}" for each in characters)
        assert smollm2.encode(text) == smollm2_oracle.encode(text).ids, hex(first)


def test_smollm2s_tokens(smollm2):
    assert (smollm2.d_vocab, smollm2.bos_token, smollm2.eos_token, smollm2.eot) == (49152, "<|im_start|>", "<|im_end|>", 0)
    assert len(smollm2.special_tokens) == 17
    assert not smollm2.adds_bos
    assert smollm2.unused_ids == []
    assert smollm2.unmade_tokens == {}
    with pytest.raises(ValueError, match=r"no token for the byte\(s\) 0x04"):
        smollm2.encode("\x04")
