import shlex
from xml.etree import ElementTree

from cutaway.runs import Run
from tiny_training import write_text


def test_it_trains_shows_text_and_says_what_comes_next(cutaway, tmp_path, monkeypatch):
    write_text(tmp_path)
    monkeypatch.setenv("PATH", "")  # no compiler, as on a bare machine, which also spares the minute that compiling takes
    monkeypatch.delenv("CXX", raising=False)
    code, out, err = cutaway("demo", "--data", "play.txt", "--steps", "20")
    assert code == 0
    folder = tmp_path / "runs/demo"
    picture = ElementTree.parse(folder / "loss.svg").getroot()
    assert picture.tag.endswith("svg")
    assert str(folder / "loss.svg") in out
    commands = [line.strip() for line in out.splitlines() if line.startswith("  cutaway ")]
    assert commands[0] == 'cutaway generate "ROMEO:"'
    assert len(commands) >= 3
    assert max(len(line) for line in err.splitlines() if not line.startswith("[")) <= 80  # a pipe gets whole sentences
    metrics = Run(folder).metrics()
    assert metrics.curve("val_loss")[0] == [0, 20]
    assert [record["step"] for record in metrics.records if "sample" in record] == [0, 20], "text before and after"
    assert metrics.last("val_loss") < metrics.records[0]["val_loss"]
    assert "there is no C++ compiler here" in " ".join(err.split())


def test_what_it_suggests_works(cutaway, tmp_path, monkeypatch):
    (tmp_path / "play.txt").write_text("ROMEO: the fool.\n" * 60)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    _, out, _ = cutaway("demo", "--data", "play.txt", "--steps", "1")
    commands = [line.strip() for line in out.splitlines() if line.startswith("  cutaway ")]
    for command in commands:
        if "--compare" not in command:  # which test_generate tries
            assert cutaway(*shlex.split(command)[1:])[0] == 0, command
