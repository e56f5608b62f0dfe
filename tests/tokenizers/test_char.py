import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.tokenizers import CharTokenizer


def test_ids_follow_the_code_points():
    tokenizer = CharTokenizer.fit("hello, world\n")
    assert tokenizer.characters == "\n ,dehlorw"
    assert tokenizer.encode("\nhello") == [0, 5, 4, 6, 6, 7]
    assert tokenizer.d_vocab == 10
    assert tokenizer.special_tokens == {}
    assert tokenizer.eot is None


@given(st.text())
def test_any_text_comes_back_from_its_own_tokenizer(text: str):
    tokenizer = CharTokenizer.fit(text)
    oracle = sorted(set(text))
    assert tokenizer.d_vocab == len(oracle)
    assert tokenizer.encode(text) == [oracle.index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_it_does_not_know_are_named():
    tokenizer = CharTokenizer.fit("abc")
    with pytest.raises(ValueError, match=r"character\(s\) 'é', '日' are not among the 3.*byte-level"):
        tokenizer.encode("a日bé")
    with pytest.raises(ValueError, match="and 16 more are not among"):
        tokenizer.encode("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    with pytest.raises(ValueError, match="not among the 0"):
        CharTokenizer().encode("a")


def test_a_text_with_a_lone_surrogate_cannot_be_fitted():
    with pytest.raises(ValueError, match="lone surrogate"):
        CharTokenizer.fit("a\ud800")
