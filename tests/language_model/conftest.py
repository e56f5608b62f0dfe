"""A language model that several of these tests ask."""

import string

import pytest

from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer
from tiny_language_models import MakeModel, make_lm


@pytest.fixture
def lm(make_model: MakeModel) -> LanguageModel:
    """Of characters; the model has ids that the tokenizer has not."""
    return make_lm(make_model, CharTokenizer.fit(string.printable), d_vocab=120)
