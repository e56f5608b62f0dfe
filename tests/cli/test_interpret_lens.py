"""`cutaway interpret logit-lens` and `tuned-lens` on a run that has just been trained."""

import json
import shutil
from pathlib import Path

import pytest

import cutaway as package
from tiny_training import tiny_config, write_text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), n_steps=3), quiet=True)


@pytest.fixture
def play(trained, tmp_path):
    """The latest run of this test's folder of runs, and its text."""
    shutil.copytree(trained, tmp_path / "runs/play")
    write_text(tmp_path)


def test_the_logit_lens_is_shown_and_reported(cutaway, play, tmp_path):
    code, out, err = cutaway("interpret", "logit-lens", "play", "--text", "the king", "--include-mid", "--report", "lens.html")
    assert (code, err) == (0, ""), err
    assert out.startswith("Logit lens\n")
    assert "layer  t" in out
    assert "0 mid" in out
    assert "<svg" in (tmp_path / "lens.html").read_text()
    code, out, _ = cutaway("interpret", "logit-lens", "--text", "the king", "--target", "q", "--json", "--norm", "frozen")
    assert (code, json.loads(out)["followed"], json.loads(out)["norm"]) == (0, ["q"] * 8, "frozen")


def test_a_tuned_lens_is_trained_saved_and_read(cutaway, play):
    code, out, err = cutaway("interpret", "tuned-lens", "--train-on", "play.txt", "--steps", "4", "--save", "lens")
    assert code == 0, err
    assert "The lens is in lens." in err
    assert out.startswith("Tuned lens\nMean KL of the model's answer from the reading")
    assert "That is a sketch from few tokens: train longer before you rely on it." in " ".join(out.split())
    assert cutaway("interpret", "tuned-lens", "--lens", "lens")[1] == out
    assert json.loads(Path("lens/lens.json").read_text())["model"]
    code, out, _ = cutaway("interpret", "tuned-lens", "--lens", "lens", "--text", "the king", "--json")
    assert (code, json.loads(out)["analysis"], json.loads(out)["layers"]) == (0, "Tuned lens", ["embed", "0"])


def test_a_lens_is_not_lost_unasked(cutaway, play):
    Path("lens").mkdir()
    Path("lens/lens.json").write_text("a lens")
    train = ["interpret", "tuned-lens", "--train-on", "play.txt", "--steps", "1", "--save", "lens"]
    code, _, err = cutaway(*train)
    assert (code, "lens holds a lens already: give another folder, or --overwrite" in err) == (2, True), err
    assert Path("lens/lens.json").read_text() == "a lens"
    assert cutaway(*train, "--overwrite")[0] == 0
    assert Path("lens/lens.json").read_text() != "a lens"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--train-on or --lens is missing"),
        (["--lens", "lens", "--steps", "3"], "--lens and --steps do not go together: a lens that is read is not trained"),
        (["--lens", "nowhere"], "nowhere holds no lens.json"),
        (["--train-on", "play.txt", "--save", "runs"], "runs holds other things"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, play, arguments, sentence):
    code, out, err = cutaway("interpret", "tuned-lens", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
