"""A target is one token: the one that goes on with the prompt, said where it is not as it was given."""

from dataclasses import replace

import pytest

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.interp.targets import single_token
from cutaway.tokenizers import BPETokenizer, CharTokenizer, NoTokenizer

TEXT = "The capital of France is Paris. 12 and 3 4\n" * 40


@pytest.fixture(scope="module")
def speaking() -> LanguageModel:
    """A model whose tokens are words of one text, with the space before them and without."""
    tokenizer = BPETokenizer.train(TEXT + "Paris\nis\n" * 40, 286, special_tokens=["<|endoftext|>"])
    model = Transformer(ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=8, n_layers=0, n_heads=2, d_model=8))
    return LanguageModel(model, tokenizer)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("Paris", "The capital of France is", " Paris"),
        ("Paris", "France.", " Paris"),
        (" Paris", "The capital of France is", " Paris"),
        ("Paris", "The capital of France is ", "Paris"),
        ("Paris", "", "Paris"),
        ("4", "and 3", "4"),
        ("3", "and", " 3"),
        (".", "Paris", "."),
        ("x", "Paris", "x"),
        ("\n", "Paris", "\n"),
    ],
)
def test_a_word_after_a_word_begins_with_its_space(speaking: LanguageModel, text: str, after: str, expected: str) -> None:
    token, said = single_token(speaking, text, after=after)
    assert speaking.text([token]) == expected
    assert (f"{text} is taken as {expected!r}" in said) == (text != expected)
    assert bool(said) == (text != expected)


def test_names_of_special_tokens_are_tokens(speaking: LanguageModel) -> None:
    assert single_token(speaking, "<|endoftext|>", after="Paris") == (speaking.tokenizer.eot, "")


def test_a_text_of_several_tokens_is_refused_with_its_pieces(speaking: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"' Paris is' is not one token but 2: ' Paris', ' is'; give a text that is one token"):
        single_token(speaking, " Paris is")
    with pytest.raises(ValueError, match=r"' Paris is' is not one token but 2: ' Paris', ' is'"):
        single_token(speaking, "Paris is", after="The capital")
    with pytest.raises(ValueError, match="the target is empty"):
        single_token(speaking, "")


def test_characters_have_no_space_before_them() -> None:
    tokenizer = CharTokenizer.fit("abc")
    lm = LanguageModel(Transformer(ModelConfig(d_vocab=3, n_ctx=8, n_layers=0, n_heads=2, d_model=8)), tokenizer)
    assert single_token(lm, "b", after="ab") == (1, "")
    with pytest.raises(ValueError, match="'bc' is not one token but 2: 'b', 'c'"):
        single_token(lm, "bc", after="ab")
    with pytest.raises(ValueError, match="d"):
        single_token(lm, "d")


def test_a_token_without_a_logit_is_refused() -> None:
    config = ModelConfig(d_vocab=3, d_vocab_out=2, n_ctx=8, n_layers=0, n_heads=2, d_model=8, tie_embeddings=False)
    lm = LanguageModel(Transformer(config), CharTokenizer.fit("abc"))
    assert single_token(lm, "b") == (1, "")
    with pytest.raises(ValueError, match="'c' is token 2 and the model has logits for the first 2 alone"):
        single_token(lm, "c")
    with pytest.raises(ValueError, match="without a tokenizer"):
        single_token(replace(lm, tokenizer=NoTokenizer()), "a")
