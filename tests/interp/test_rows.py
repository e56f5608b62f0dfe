"""Texts, ids and tensors become rows, and what is none is refused in a sentence."""

import pytest
import torch

from cutaway.interp.rows import model_of, one_row, rows_of, token_texts
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer


@pytest.fixture
def lm(tiny_model: Transformer) -> LanguageModel:
    return LanguageModel(tiny_model, CharTokenizer("abcdefg"))


def test_texts_and_tokens_are_rows(lm: LanguageModel) -> None:
    rows = rows_of(lm, ["abc", "d"])
    assert rows.lengths == (3, 1)
    assert rows.tokens[0].tolist() == [0, 1, 2]
    assert rows.tokens[1, 0] == 3
    assert not rows.is_even
    assert rows_of(lm, "abc").tokens.tolist() == rows_of(lm.model, torch.tensor([[0, 1, 2]])).tokens.tolist()
    assert model_of(lm) is model_of(lm.model) is lm.model


def test_one_row_is_a_text_or_ids(lm: LanguageModel) -> None:
    for given in ("abc", [0, 1, 2], torch.tensor([0, 1, 2]), torch.tensor([[0, 1, 2]])):
        assert one_row(lm, given).tolist() == [[0, 1, 2]]


def test_tokens_without_a_text_are_numbers(lm: LanguageModel) -> None:
    assert token_texts(lm, torch.tensor([0, 30])) == ["a", "30"]
    assert token_texts(lm.model, torch.tensor([0, 30])) == ["0", "30"]


@pytest.mark.parametrize(
    ("read", "given", "sentence"),
    [
        (one_row, ["ab", "cd"], r"\['ab', 'cd'\] is not one text: this is shown of one at a time, so give each by itself"),
        (one_row, ["abcdefg" * 20], r"\['abcdefg.*\.\.\. is not one text"),
        (one_row, [], r"the ids have the shape \[0\]; expected one row"),
        (one_row, torch.zeros(2, 3, dtype=torch.long), r"the ids have the shape \[2, 3\]; expected one row"),
        (rows_of, [], r"\[\] is no text and no list of texts: give texts, or tokens as a tensor"),
        (rows_of, [1, 2], r"\[1, 2\] is no text and no list of texts"),
    ],
)
def test_what_is_no_row_is_refused(lm: LanguageModel, read, given, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(lm, given)
