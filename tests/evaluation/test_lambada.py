"""LAMBADA by a model whose log-probabilities are known, and by forward passes of one that is random."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.evaluation import lambada
from cutaway.language_model import LanguageModel

PROBABILITIES = {"a": 0.5, " ": 0.3, "b": 0.2}
WriteRows = Callable[..., Path]


def test_known_log_probs(table_lm: Callable[..., LanguageModel], write_rows: WriteRows) -> None:
    lm = table_lm(PROBABILITIES)
    path = write_rows([{"text": "b ab a"}, {"context": "b a", "continuation": "bb"}, {"text": "a a a", "other": 1}])
    result = lambada(lm, path)
    a, space, b = map(math.log, PROBABILITIES.values())
    expected = [space + a, space + 2 * b, space + a]
    assert [row["word"] for row in result.rows] == [" a", " bb", " a"]
    assert [row["log_prob"] for row in result.rows] == pytest.approx(expected, rel=0, abs=1e-14)
    assert [row["n_tokens"] for row in result.rows] == [2, 3, 2]
    mean = -sum(expected) / 3
    assert result.metrics["nats_per_last_word"].value == pytest.approx(mean)
    assert result.metrics["perplexity_per_last_word"].value == pytest.approx(math.exp(mean))
    error = torch.tensor(expected).double().std().item() / math.sqrt(3)
    assert result.metrics["perplexity_per_last_word"].standard_error == pytest.approx(math.exp(mean) * error)
    assert result.metrics["acc"].value == 0.0  # the blank is never the likeliest


def test_accuracy_is_of_greedy_words(table_lm: Callable[..., LanguageModel], write_rows: WriteRows) -> None:
    lm = table_lm({" ": 0.7, "a": 0.2, "b": 0.1})  # blanks are the likeliest, whatever came before
    with torch.no_grad():
        lm.model.unembed.W_U.weight[1, 1] = 20.0  # but after one it is a: the blank's vector gets a direction of its own
        lm.model.embed.W_E[0, 1] = 1.0
    result = lambada(lm, write_rows([{"text": "b a"}, {"text": "b b"}, {"text": "a a"}, {"text": "a aa"}]))
    assert [row["is_greedy"] for row in result.rows] == [True, False, True, False]
    assert result.metrics["acc"].value == 0.5


def test_a_text_of_one_word_follows_the_token_that_ends_texts(byte_lm: LanguageModel, write_rows: WriteRows) -> None:
    ids = byte_lm.tokenizer.encode(" word")
    with torch.inference_mode():
        log_probs = byte_lm.model(torch.tensor([[byte_lm.tokenizer.eot, *ids]]))[0].log_softmax(dim=-1)
    expected = sum(log_probs[place, token].item() for place, token in enumerate(ids))
    assert lambada(byte_lm, write_rows([{"text": "word"}])).rows[0]["log_prob"] == pytest.approx(expected, rel=0, abs=1e-12)


def test_without_such_a_token_it_is_refused(table_lm: Callable[..., LanguageModel], write_rows: WriteRows) -> None:
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: the char tokenizer has no token that begins or ends a text"):
        lambada(table_lm(PROBABILITIES), write_rows([{"text": "a b"}, {"text": "ab"}]))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"context": "a"}, "the field 'text' is missing; the row has context"),
        ({"continuation": "a"}, "the field 'context' is missing"),
        ({"text": 3}, "text is 3; expected a string"),
        ({"text": ""}, "the text is ''; expected one that ends with a word"),
        ({"text": "a b "}, "the text is 'a b '; expected one that ends with a word"),
        ({"context": "a b", "continuation": ""}, "the text is 'a b '; expected one that ends with a word"),
        ({"text": f"a {'b' * 1999}"}, "a continuation has 2000 tokens; the model reads n_ctx"),
        ({}, "the field 'text' is missing; the row has none"),
    ],
)
def test_bad_rows(table_lm: Callable[..., LanguageModel], write_rows: WriteRows, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: {sentence}"):
        lambada(table_lm(PROBABILITIES), write_rows([{"text": "a b"}, row]))
