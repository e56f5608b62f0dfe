import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.tokenizers import WordTokenizer, load_tokenizer

WORD = st.text(min_size=1).filter(lambda word: word.split() == [word])


def test_ids_follow_the_order_given():
    tokenizer = WordTokenizer(["John", "and", "Mary"])
    assert tokenizer.encode("Mary and\nJohn ") == [2, 1, 0]
    assert tokenizer.decode([2, 1, 0]) == " Mary and John"
    assert tokenizer.d_vocab == 3
    assert tokenizer.eot is None
    assert tokenizer.encode("  ") == []


@given(st.lists(WORD, unique=True, min_size=1))
def test_any_words_come_back(words: list[str]):
    tokenizer = WordTokenizer(words)
    ids = tokenizer.encode(" ".join(words))
    assert ids == list(range(len(words)))
    assert tokenizer.decode(ids).split() == words


def test_a_text_is_fitted_and_saved(tmp_path):
    tokenizer = WordTokenizer.fit("b a\nc a")
    assert tokenizer.words == ("a", "b", "c")
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(again, WordTokenizer)
    assert again.words == tokenizer.words


def test_words_it_does_not_know_are_named():
    tokenizer = WordTokenizer(["a", "b"])
    with pytest.raises(ValueError, match=r"word\(s\) 'ab', 'c' are not among the 2 of the word tokenizer \(a, b\)"):
        tokenizer.encode("a c ab")


@pytest.mark.parametrize("words", [[""], ["a b"], [" a"], ["a\n"]])
def test_what_is_no_word_is_refused(words: list[str]):
    with pytest.raises(ValueError, match="is no word"):
        WordTokenizer(words)


def test_a_word_has_one_id():
    with pytest.raises(ValueError, match="'b' is given twice"):
        WordTokenizer(["a", "b", "b"])


def test_a_state_without_words_is_refused():
    with pytest.raises(ValueError, match="no whole word tokenizer"):
        load_tokenizer({"kind": "word"})
