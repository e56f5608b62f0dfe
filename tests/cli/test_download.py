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
    for name, asset in assets.CATALOGUE.items():
        assert name in out
        assert asset.licence in out
    assert max(len(line.rstrip()) for line in out.splitlines()[:-3]) <= 80
    assert out.splitlines()[0].split()[:2] == ["name", "kind"]


def test_a_narrow_terminal_gets_fewer_columns(cutaway, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = cutaway("download")[1].splitlines()
    assert max(len(line.rstrip()) for line in lines[:-3]) <= 60
    assert any(line.split()[:3] == ["name", "size", "state"] for line in lines)


def test_the_catalogue_can_be_read_by_a_program(cutaway):
    rows = json.loads(cutaway("download", "--json")[1])
    assert [row["name"] for row in rows] == list(assets.CATALOGUE)
    assert not any(row["is_present"] for row in rows)
    assert {"kind", "size", "licence", "about", "where"} <= rows[0].keys()


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
    assert err.startswith(f"cutaway: {len(rows) - 1} of {len(rows)} could not be fetched")
    assert "no connection" in err


def test_everything_and_a_name_do_not_go_together(cutaway, one_small_asset):
    code, out, err = cutaway("download", "--all", "stdlib")
    assert (code, out) == (2, "")
    assert err == "cutaway: --all and NAME do not go together: all vocabularies and corpora, or what is named; leave out one\n"


def test_an_unknown_name_stops_before_anything_is_fetched(cutaway, one_small_asset):
    code, _, err = cutaway("download", "stdlib", "gpt3")
    assert code == 2
    assert "'gpt3' is no asset" in err
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
    assert cutaway("download", "stdlib", "--verify")[0] == 0
    assert path.read_bytes() == content


def test_what_the_cache_holds_is_known(monkeypatch):
    assert module.held() == ()
    assets.fetch("stdlib")
    assert module.held() == ("stdlib",)
