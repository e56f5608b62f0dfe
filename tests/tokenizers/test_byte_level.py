import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from cutaway.tokenizers import CL100K_PATTERN, GPT2_PATTERN, from_letters, to_letters
from cutaway.tokenizers.byte_level import BYTES
from tokenizers import pre_tokenizers


def test_the_letters_are_those_of_gpt2():
    assert to_letters(b" the\n") == "ĠtheĊ"
    assert len(set(BYTES)) == 256
    assert sorted(map(to_letters, BYTES)) == sorted(pre_tokenizers.ByteLevel.alphabet())


@given(st.binary())
def test_letters_and_bytes_are_one_to_one(token: bytes):
    assert from_letters(to_letters(token)) == token
    assert to_letters(token).isprintable()


def test_a_letter_that_stands_for_no_byte_is_refused():
    with pytest.raises(ValueError, match="'a b' is no byte-level token: ' ' stands for no byte"):
        from_letters("a b")


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K_PATTERN], ids=["gpt2", "cl100k"])
@given(data=st.data())
def test_cutting_loses_nothing(pattern: str, texts: st.SearchStrategy[str], data: st.DataObject):
    text = data.draw(st.one_of(st.text(), texts))
    assert "".join(regex.findall(pattern, text)) == text


@given(data=st.data())
def test_words_are_cut_as_hugging_face_cuts_them(texts: st.SearchStrategy[str], data: st.DataObject):
    text = data.draw(texts)
    oracle = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert [to_letters(word.encode()) for word in regex.findall(GPT2_PATTERN, text)] == [word for word, _ in oracle]
