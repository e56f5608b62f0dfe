import json

import pytest

from cutaway import assets
from cutaway.assets import SourceAnswer
from cutaway.cli.doctor import advise, examine

ANSWERS = [
    SourceAnswer("package registry", is_answering=True, why_not="", assets=("gpt2", "cl100k", "cl100k")),
    SourceAnswer("model hub", is_answering=False, why_not="no connection within 3 s", assets=()),
    SourceAnswer("this Python", is_answering=True, why_not="", assets=("stdlib",)),
]


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    monkeypatch.setattr(assets, "sources_answering", lambda: ANSWERS)


def test_it_says_what_there_is(cutaway):
    code, out, err = cutaway("doctor")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for expected in (
        "torch 2.",
        "device CPU",
        "C++ compiler",
        "✓ package registry gpt2, cl100k",
        "✗ model hub no connection",
    ):
        assert expected in text
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_a_program_can_read_it(cutaway):
    findings = json.loads(cutaway("doctor", "--json")[1])
    assert findings["versions"]["torch"]
    assert findings["device"]["n_threads"] >= 1
    assert findings["device"]["bfloat16_speed"] > 0
    assert findings["memory"]["n_bytes"] > findings["memory"]["n_free_bytes"] > 0
    assert findings["cache"]["n_bytes"] == 0
    assert [answer["is_answering"] for answer in findings["sources"]] == [True, False, True]
    assert isinstance(findings["advice"], list)


def test_memory_is_what_training_would_be_held_to(cutaway, monkeypatch):
    monkeypatch.setattr("cutaway.runtime.free_memory_gib", lambda device: 0.5)
    monkeypatch.setattr("cutaway.runtime.total_memory_gib", lambda device: None)
    assert json.loads(cutaway("doctor", "--json")[1])["memory"] == {"n_bytes": None, "n_free_bytes": 2**29}


def test_clang_alone_is_not_what_torch_calls(cutaway, monkeypatch, tmp_path):
    (tmp_path / "clang++").write_text("#!/bin/sh\necho clang version 15\n")
    (tmp_path / "clang++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    text = " ".join(cutaway("doctor")[1].split())
    assert "C++ compiler none: g++ was not found" in text
    assert "install g++, or set CXX to the name of another" in text


def test_it_says_what_is_lost_without_a_compiler(cutaway, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    _, out, _ = cutaway("doctor")
    text = " ".join(out.split())
    assert "none: no-such-compiler was not found" in text
    assert "! no C++ compiler" in text
    assert "set CXX" in text


def test_a_cache_that_cannot_be_used_is_one_sentence(cutaway, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    code, out, err = cutaway("doctor")
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if line.startswith("! the cache") or "fetched" in line)
    assert str(tmp_path / "file") in line
    assert line.endswith(" (Not a directory): set CUTAWAY_CACHE to a folder that can be written")
    assert "disk space" not in out
    assert "0 B" not in out


def test_it_says_what_is_lost_without_sources_and_space():
    findings = examine()
    findings["device"] |= {"name": "cpu"}
    findings["compiler"] |= {"version": "g++ 12", "has_python_headers": True}
    findings["cache"] |= {"n_free_bytes": 2e9}
    assert list(advise(findings)) == []
    unreachable = {"source": "a host", "is_answering": False, "why_not": "no connection", "assets": ("tinyshakespeare", "gpt2")}
    one_absent = findings | {"sources": [*findings["sources"], unreachable]}
    (sentence,) = advise(one_absent)  # GPT-2's vocabulary comes from the registry
    assert sentence.startswith("tinyshakespeare cannot be fetched here")
    assert "`cutaway train --data shakespeare`" in sentence
    plays = {"source": "another", "is_answering": False, "why_not": "no connection", "assets": ("shakespeare",)}
    assert "`cutaway train --data stdlib`" in next(advise(one_absent | {"sources": [*one_absent["sources"], plays]}))
    assert list(advise(one_absent | {"cache": findings["cache"] | {"assets": ["tinyshakespeare"]}})) == []
    findings["sources"] = [answer | {"is_answering": answer["source"] == "this Python"} for answer in findings["sources"]]
    findings["cache"] |= {"n_free_bytes": 1e6}
    no_source, no_space = advise(findings)
    assert no_source.startswith("no source answers")
    assert "CUTAWAY_CACHE" in no_space
    findings["compiler"] |= {"has_python_headers": False}
    assert next(advise(findings)).startswith("Python's headers are missing")
