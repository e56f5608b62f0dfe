import json
from pathlib import Path

import pytest

from cutaway import assets
from cutaway.cli import download as module


@pytest.fixture
def one_small_asset(monkeypatch):
    """Let the standard library be a few bytes, and everything else not to be had."""

    def fetch(name, *, report=None):
        if name != "stdlib":
            raise assets.AssetError(f"{name} could not be fetched\n  URL somewhere: no connection")
        path = assets.cache_dir() / "assets" / name / "stdlib.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"import this\n")
        report(12, 12, "stdlib.txt")
        return {"stdlib.txt": path}

    monkeypatch.setattr(assets, "fetch", fetch)


def test_the_catalogue_is_listed(cutaway):
    code, out, err = cutaway("download")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["name", "kind", "size", "state", "from", "licence"]
    assert [line.split()[0] for line in lines[2:-2]] == list(assets.CATALOGUE)
    assert all(line.rstrip().endswith(asset.licence) for line, asset in zip(lines[2:-2], assets.CATALOGUE.values(), strict=True))
    assert max(len(line.rstrip()) for line in lines[:-2]) <= 80
    assert "A window of 140 columns shows what each is" in lines[-1]


def test_a_narrow_terminal_gets_fewer_columns(cutaway, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = cutaway("download")[1].splitlines()
    assert max(len(line.rstrip()) for line in lines[:-2]) <= 60
    assert lines[0].split() == ["name", "size", "state", "from"]


def test_a_wide_terminal_gets_what_each_is(cutaway, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = cutaway("download")[1]
    assert all(asset.about in out for asset in assets.CATALOGUE.values())
    assert "A window" not in out


def test_the_catalogue_can_be_read_by_a_program(cutaway):
    rows = json.loads(cutaway("download", "--json")[1])
    assert [row["name"] for row in rows] == list(assets.CATALOGUE)
    assert not any(row["is_present"] for row in rows)
    assert {"kind", "n_bytes", "memory_bytes", "licence", "about", "where", "origin"} <= rows[0].keys()
    for row in rows:
        files = assets.CATALOGUE[row["name"]].files
        assert [file["sha256"] for file in row["files"]] == [file.sha256 for file in files]
        assert [file["sources"] for file in row["files"]] == [list(map(str, file.sources)) for file in files]


def test_what_is_fetched_is_shown_with_its_path(cutaway, one_small_asset):
    code, out, err = cutaway("download", "stdlib")
    assert (code, err) == (0, "")
    assert out.split() == ["stdlib", "12", "B", str(assets.cache_dir() / "assets/stdlib/stdlib.txt")]


def test_all_goes_on_past_what_cannot_be_had(cutaway, one_small_asset):
    code, out, err = cutaway("download", "--all", "--json")
    assert code == 1
    rows = {row["name"]: row for row in json.loads(out)}
    assert Path(rows["stdlib"]["files"]["stdlib.txt"]).read_bytes() == b"import this\n"
    assert rows["cl100k"]["failure"].startswith("cl100k could not be fetched")
    assert rows["cl100k"]["files"] == {}
    assert rows.keys() == {name for name, asset in assets.CATALOGUE.items() if asset.kind in ("vocabulary", "corpus")}
    lost = set(rows) - {"stdlib", "shakespeare", "tinyshakespeare"}
    for name in ("shakespeare", "tinyshakespeare"):  # the library stands in for both
        assert f"[{name} could not be fetched (URL somewhere: no connection): stdlib stands in for it]" in err
    assert f"cutaway: {len(lost)} of {len(rows)} could not be fetched\n" in err
    assert all(f"{name} could not be fetched\n" in err for name in lost)


def test_all_succeeds_where_something_stands_in_for_what_is_missing(cutaway, monkeypatch):
    def fetch(name, *, report=None):
        if name == "tinyshakespeare":
            raise assets.AssetError("tinyshakespeare: input.txt could not be fetched\n  URL somewhere: no connection")
        return {}

    monkeypatch.setattr(assets, "fetch", fetch)
    said = "[tinyshakespeare: input.txt could not be fetched (URL somewhere: no connection): shakespeare stands in for it]"
    assert cutaway("download", "--all") == (0, "", f"{said}\n")
    code, _, err = cutaway("download", "tinyshakespeare", "shakespeare")  # asked for by name, nothing else will do
    assert (code, err.splitlines()[0]) == (1, "cutaway: 1 of 2 could not be fetched")


def test_everything_and_a_name_do_not_go_together(cutaway, one_small_asset):
    code, out, err = cutaway("download", "--all", "stdlib")
    assert (code, out) == (2, "")
    assert err == "cutaway: --all and NAME do not go together: all vocabularies and corpora, or what is named; leave out one\n"


def test_an_unknown_name_stops_before_anything_is_fetched(cutaway, one_small_asset):
    code, _, err = cutaway("download", "stdlib", "gpt3")
    assert code == 2
    assert "'gpt3' is no asset; did you mean 'gpt2'? there are" in err
    assert not assets.cache_dir().exists()


def test_verify_finds_what_was_changed(cutaway):
    assert cutaway("download", "--verify") == (0, "", "")
    assets.fetch("stdlib")
    assert cutaway("download", "--verify") == (0, "stdlib: whole\n", "")
    path = assets.locate("stdlib")["stdlib.txt"]
    content = path.read_bytes()
    path.write_bytes(b"?" + content[1:])
    code, out, err = cutaway("download", "--verify", "--json")
    assert code == 1
    assert json.loads(out) == {"stdlib": ["stdlib: stdlib.txt is not as it was fetched"]}
    assert "`cutaway download stdlib` fetches it again" in err
    code, out, _ = cutaway("download", "stdlib", "--verify")
    assert (code, out.splitlines()[0]) == (0, "stdlib: stdlib.txt is not as it was fetched")
    assert path.read_bytes() == content
    assert cutaway("download", "stdlib", "--verify")[1].splitlines()[0] == "stdlib: whole"
    assert json.loads(cutaway("download", "stdlib", "--verify", "--json")[1])[0]["name"] == "stdlib"


def test_a_cache_that_cannot_be_used_is_said_once(cutaway, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    code, out, err = cutaway("download", "--all")
    assert (code, out, err.count("cannot be used")) == (1, "", 1)


def test_what_the_cache_holds_is_known(monkeypatch):
    assert module.held() == ()
    assets.fetch("stdlib")
    assert module.held() == ("stdlib",)
