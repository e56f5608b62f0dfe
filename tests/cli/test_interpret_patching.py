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
    assert (code, err) == (0, ""), err
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
        (["trace", "--draws", "0"], "draws 0; expected noise above 0 and at least one draw"),
        (["trace", "--metric", "logit_diff"], "give a wrong answer"),
        (["trace", "--subject", "France", "--subject", "capital"], "there are 2 subjects for 1 prompts"),
    ],
)
def test_bad_input_is_one_sentence(cutaway, words, command, sentence):
    verb, *options = command
    base = PATCH if verb == "patch" else TRACE
    kept = [part for flag, value in zip(base[::2], base[1::2], strict=True) if flag not in options for part in (flag, value)]
    code, out, err = cutaway("interpret", verb, "words", *kept, *options)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_wrong_answer_and_a_metric_of_a_trace_arrive(cutaway, words):
    command = ["interpret", "trace", "words", *TRACE, "--site", "mlp_out", "--json"]
    assert json.loads(cutaway(*command)[1])["metric"] == "probability of ·Paris"
    assert json.loads(cutaway(*command, "--wrong", "London")[1])["metric"] == "logit difference ·Paris - ·London"
    assert json.loads(cutaway(*command, "--wrong", "London", "--metric", "log_prob")[1])["metric"] == "log-probability of ·Paris"


SEVERAL = {
    "patch": {"clean": "--clean", "corrupted": "--corrupted", "correct": "--target", "wrong": "--wrong"},
    "path-patch": {"clean": "--text", "corrupted": "--corrupted", "correct": "--target", "wrong": "--wrong"},
    "attribution-patch": {"clean": "--text", "corrupted": "--corrupted", "correct": "--target", "wrong": "--wrong"},
    "attribute": {"text": "--text", "correct": "--target", "wrong": "--wrong"},
    "trace": {"text": "--text", "subject": "--subject", "correct": "--target"},
}
ROWS = [
    {"clean": "The capital of France is", "corrupted": "The capital of England is", "correct": "Paris", "wrong": "London"},
    {"clean": "The capital of England is", "corrupted": "The capital of France is", "correct": "London", "wrong": "Paris"},
]
SUBJECTS = ["France", "England"]
FEWER = {"patch": ["--by", "layer"], "path-patch": ["--receiver", "L1H0.q+L1G1.k"], "attribution-patch": ["--kind", "z"]}
FEWER |= {"trace": ["--draws", "1", "--site", "mlp_out"]}


@pytest.mark.parametrize("verb", SEVERAL)
def test_several_prompts_are_given_again_or_in_a_file(cutaway, words, verb, tmp_path):
    flags = SEVERAL[verb]
    rows = [{"text": row["clean"], "subject": subject, **row} for row, subject in zip(ROWS, SUBJECTS, strict=True)]
    rows = [{word: row[word] for word in flags} for row in rows]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    again = [part for row in rows for word, flag in flags.items() for part in (flag, row[word])]
    code, given, err = cutaway("interpret", verb, "words", *again, *FEWER.get(verb, []), "--json")
    assert code == 0, err
    code, read, err = cutaway("interpret", verb, "words", "--prompts", "prompts.jsonl", *FEWER.get(verb, []), "--json")
    assert code == 0, err
    assert json.loads(read) == json.loads(given)
    code, out, err = cutaway("interpret", verb, "words", "--prompts", "prompts.jsonl", *FEWER.get(verb, []), "--report", "it.html")
    assert (code, err) == (0, ""), err
    assert "± " in out
    lines = out.split("\n\n", 1)[1].splitlines()
    assert max(map(len, (line for line in lines if not line.startswith("The report")))) <= 80
    assert "prompts prompts.jsonl" in (tmp_path / "it.html").read_text()


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ("", [], "prompts.jsonl holds no lines"),
        ("{", [], "prompts.jsonl, line 1 is no JSON"),
        ("[]", [], "prompts.jsonl, line 1 is no object: expected one with clean, corrupted, correct, wrong"),
        ('{"clean": "a", "target": "b"}', [], "prompts.jsonl, line 1 has 'target': expected clean, corrupted, correct, wrong"),
        ('{"clean": "a"}\n\n{"corrupted": "a"}', [], "prompts.jsonl, line 3 has no 'clean', and others have"),
        ('{"clean": "a", "corrupted": "b"}', [], "--target is missing"),
        ('{"clean": "a"}', ["--clean", "b"], "--prompts and --clean do not go together"),
    ],
)
def test_files_of_prompts_that_cannot_be_read_are_said(cutaway, words, tmp_path, lines, options, said):
    (tmp_path / "prompts.jsonl").write_text(lines)
    code, out, err = cutaway("interpret", "patch", "words", "--prompts", "prompts.jsonl", *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
