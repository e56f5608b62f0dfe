"""`cutaway interpret patch` and `trace`, on a tiny model whose tokens are words."""

import json

import pytest

PATCH = ["--clean", "The capital of France is", "--corrupted", "The capital of England is", "--target", "Paris"]
TRACE = ["--text", "The capital of France is", "--subject", "France", "--target", "Paris", "--draws", "2"]
COMMANDS = {
    "patch": PATCH,
    "patch --site z --direction noising": [*PATCH, "--wrong", "London"],
    "patch --site k --by kv-head --metric prob": PATCH,
    "patch --by layer": PATCH,
    "trace": TRACE,
    "trace --site mlp_out --window 1": TRACE,
    "trace --replacement England": TRACE[:-2],
    "trace --replacement England --wrong London": TRACE[:-2],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_shown_printed_and_written(cutaway, words, command, tmp_path):
    verb, *options = command.split()
    call = ["interpret", verb, "words", *COMMANDS[command], *options]
    code, out, err = cutaway(*call, "--report", "found.html")
    assert (code, err) == (0, "words\n\n"), err
    lines = out.split("\n\n", 1)[1].splitlines()
    assert max(map(len, (line for line in lines if not line.startswith("The report")))) <= 80
    assert "Paris is taken as ' Paris'" in out
    assert "<svg" in (tmp_path / "found.html").read_text()
    code, out, err = cutaway(*call, "--json")
    assert code == 0, err
    assert json.loads(out)["notes"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["patch", "--target", "Rome"], "is not one token but"),
        (["patch", "--corrupted", "Oh"], "the prompts do not align anywhere"),
        (["patch", "--site", "resid"], "the nearest names are"),
        (["patch", "--by", "head"], "resid_pre has no heads"),
        (["patch", "--by", "row"], "--by is 'row'; expected position, head, kv-head, head-position or layer"),
        (["trace", "--subject", "Spain"], "'Spain' is not in the text"),
        (["trace", "--replacement", "England", "--seed", "1"], "--replacement and --seed do not go together"),
        (["trace", "--draws", "0"], "--draws 0; expected noise above 0 and at least one draw"),
        (["trace", "--metric", "logit_diff"], "give a wrong answer"),
    ],
)
def test_bad_input_is_one_sentence(cutaway, words, command, sentence):
    verb, *options = command
    code, out, err = cutaway("interpret", verb, "words", *(PATCH if verb == "patch" else TRACE), *options)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_wrong_answer_and_a_metric_of_a_trace_arrive(cutaway, words):
    command = ["interpret", "trace", "words", *TRACE, "--site", "mlp_out", "--json"]
    assert json.loads(cutaway(*command)[1])["metric"] == "probability of ·Paris"
    assert json.loads(cutaway(*command, "--wrong", "London")[1])["metric"] == "logit difference ·Paris - ·London"
    assert json.loads(cutaway(*command, "--wrong", "London", "--metric", "log_prob")[1])["metric"] == "log-probability of ·Paris"
