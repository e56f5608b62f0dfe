"""`cutaway interpret attribute` and `residual`, on a tiny model whose tokens are words."""

import json

import pytest

PROMPT = "The capital of France is"
VERBS = {
    "attribute": ["--text", PROMPT, "--target", "Paris", "--wrong", " London"],
    "residual": ["--text", PROMPT],
}


@pytest.mark.parametrize("verb", VERBS)
def test_it_is_shown_printed_and_written(cutaway, words, verb, tmp_path):
    code, out, err = cutaway("interpret", verb, "words", *VERBS[verb], "--report", "found.html")
    assert (code, err) == (0, ""), err
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    assert (tmp_path / "found.html").read_text().count("<svg") == {"attribute": 2, "residual": 4}[verb]
    code, out, err = cutaway("interpret", verb, "words", *VERBS[verb], "--json")
    assert code == 0, err
    assert json.loads(out)


@pytest.mark.parametrize("by", ["component", "head", "neuron", "position"])
def test_parts_add_up_to_what_the_model_says(cutaway, words, by):
    code, out, err = cutaway("interpret", "attribute", "words", *VERBS["attribute"], "--by", by, "--json")
    assert code == 0, err
    found = json.loads(out)
    paris, london = (words.tokenizer.encode(word)[0] for word in (" Paris", " London"))
    logits = words.model(words.tokens(PROMPT))[0, -1]
    assert sum(part["mean"] for part in found["parts"]) == pytest.approx(
        (logits[paris] - logits[london]).item(), abs=1e-5
    )  # float32
    assert found["asked"] == "logit of ·Paris less ·London"
    assert found["notes"] == ["Paris is taken as ' Paris', with its space"]


def test_how_a_target_was_taken_is_said(cutaway, words):
    _, out, _ = cutaway("interpret", "attribute", "words", *VERBS["attribute"])
    assert "Paris is taken as ' Paris'" in out
    _, out, _ = cutaway("interpret", "attribute", "words", "--text", PROMPT)
    assert "The answer is the model's own" in out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--target", "Paris London"], "' Paris London' is not one token but 2: ' Paris', ' London'"),
        (["--target", "Paris", "--pos", "9"], "there is no position 9; there are 5, 0 to 4"),
        (["--by", "layer"], "--by is 'layer'; expected component, head, neuron or position"),
    ],
)
def test_bad_input_is_one_sentence(cutaway, words, options, expected):
    code, out, err = cutaway("interpret", "attribute", "words", "--text", PROMPT, *options)
    assert code in (1, 2)
    assert out == ""
    assert expected in " ".join(err.split())


def test_the_stream_of_one_token_is_no_mean(cutaway, words):
    code, out, err = cutaway("interpret", "residual", "words", "--text", "T")
    assert (code, out) == (2, "")
    assert "the text is one token, and the first position is left out of the means" in " ".join(err.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(cutaway, verb):
    code, out, _ = cutaway("interpret", verb, "--help")
    assert code == 0
    assert f"cutaway interpret {verb} smollm2-135m --text" in out
