"""`cutaway interpret` attention, heads, induction-heads and composition, on a tiny run."""

import json
import shutil
import sys

import pytest

import cutaway as package
from tiny_training import tiny_config, write_text

VERBS = {
    "heads": ["--num-sequences", "2"],
    "induction-heads": ["--num-sequences", "2", "--top-k", "3"],
    "composition": ["--num-sequences", "2", "--threshold", "0"],
    "attention": ["--text", "the king"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        config = tiny_config(write_text(home), out=str(home / "run"), n_steps=3, n_layers=2, d_mlp=0)
        return package.train(config, quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    """The latest run of this test's folder of runs: characters, 16 positions, 2 layers of 2 heads."""
    return shutil.copytree(trained, tmp_path / "runs/play")


@pytest.mark.parametrize("verb", VERBS)
def test_it_is_shown_printed_and_written(cutaway, run, verb, tmp_path):
    code, out, err = cutaway("interpret", verb, "play", *VERBS[verb], "--report", "found.html")
    assert (code, err) == (0, ""), err
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    page = (tmp_path / "found.html").read_text()
    assert "<svg" in page
    code, out, err = cutaway("interpret", verb, *VERBS[verb], "--json")
    assert code == 0, err
    assert json.loads(out)


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_source_and_an_example(cutaway, verb):
    code, out, _ = cutaway("interpret", verb, "--help")
    assert code == 0
    assert f"cutaway interpret {verb} --demo" in out
    assert "et al." in out
    assert max(map(len, out.splitlines())) <= 100


def test_options_arrive(cutaway, run):
    found = json.loads(
        cutaway("interpret", "induction-heads", "--num-sequences", "3", "--seq-length", "5", "--top-k", "2", "--json")[1]
    )
    assert (found["n_sequences"], found["seq_length"], len(found["top"])) == (3, 5, 2)
    found = json.loads(cutaway("interpret", "composition", "--kind", "v", "--json")[1])
    assert (found["analysis"], list(found["scores"])) == ("Composition of heads", ["v"])
    code, _, err = cutaway("interpret", "composition", "--kind", "q", "--threshold", "0.3")
    assert code == 2
    assert "--kind and --threshold do not go together" in err
    chosen = ["--layer", "-1", "--head", "0", "--weighting", "output"]
    found = json.loads(cutaway("interpret", "attention", "--text", "a king", *chosen, "--json")[1])
    assert [(each["layer"], each["head"]) for each in found["heads"]] == [(1, 0)]
    assert found["weighting"] == "output"
    assert found["tokens"] == list("a king")


def test_a_context_that_is_too_short_is_said(cutaway, run):
    out = " ".join(cutaway("interpret", "heads", "--num-sequences", "1")[1].split())
    assert "Sequences are 8 tokens long, twice: no more fits the context of 16." in out
    code, out, err = cutaway("interpret", "heads", "--seq-length", "9")
    assert (code, out) == (2, "")
    assert "the sequence is to have 9 tokens; expected 2 to 8, as no more fits the context of 16" in err


def test_texts_are_asked_for_on_a_terminal(cutaway, run, monkeypatch):
    waiting = iter(["the king", "t", "a fool", ""])
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(waiting))
    code, out, err = cutaway("interpret", "attention", "--layer", "0")
    assert code == 0
    assert out.count("Attention") == 2
    assert "the text is one token" in err
