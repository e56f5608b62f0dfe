import json

import pytest
import torch

from cutaway import measure
from cutaway.config import ModelConfig
from cutaway.model import Transformer


def test_decoding_is_faster_with_the_cache_the_longer_the_text(cutaway):
    code, out, err = cutaway("bench", "decode", "--preset", "shakespeare-char", "--device", "cpu", "--json")
    assert code == 0
    assert err.startswith("shakespeare-char, float32, CPU")
    rows = json.loads(out)
    assert [row["length"] for row in rows] == [8, 16, 32]
    for row in rows:
        assert row["times faster"] == pytest.approx(row["with cache"] / row["tokens/s without cache"])
        assert row["with cache"] > 0


def test_without_a_compiler_of_torch_s_it_measures_uncompiled(cutaway, monkeypatch, tmp_path):
    """clang++ alone is not what torch would call."""
    (tmp_path / "clang++").write_text("#!/bin/sh\necho clang version 15\n")
    (tmp_path / "clang++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it compiles"))
    assert cutaway("bench", "limits", "--device", "cpu")[0] == 0
    code, _, err = cutaway("bench", "decode", "--preset", "shakespeare-char", "--device", "cpu", "--compile")
    assert code == 0
    assert "there is no C++ compiler here" in err


def test_limits_are_plausible(cutaway, monkeypatch):
    monkeypatch.setattr("cutaway.measure.machine.compile_obstacle", lambda _: "spared")  # the compiled read takes long to compile
    code, out, err = cutaway("bench", "limits", "--device", "cpu", "--json")
    assert code == 0
    assert err.startswith("float32, CPU"), "no model takes part"
    (row,) = json.loads(out)
    assert 0.1 < row["GB/s, memory read"] < 5000
    assert 0.1 < row["GFLOP/s, matrix products"] < 100_000


def test_the_table_fits_80_columns(cutaway):
    code, out, _ = cutaway("bench", "forward", "--preset", "shakespeare-char", "--device", "cpu")
    assert code == 0
    assert "times the products" in " ".join(out.split())
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_bytes_a_token_are_the_weights_and_the_cache():
    config = ModelConfig(d_vocab=10, n_ctx=8, n_layers=2, n_heads=2, d_model=4)
    weights = 2 * (4 * 4 * 4 + 2 * 4 * 16) + 4 * 10
    assert measure.bytes_a_token(Transformer(config), length=5) == 4 * (weights + 2 * 2 * 4 * 5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dreams"], "the argument is 'dreams'; expected decode, forward or limits; see"),
        (["forward", "--compile"], "--compile is for `cutaway bench decode`; forward knows no compiled step"),
        (["limits", "--preset", "gpt2-xl"], "`cutaway bench limits` measures the machine, and no model: leave out --preset"),
        (["decode", "--preset", "gtp2"], "there is no model preset 'gtp2'; there are gpt2"),
        (["decode", "--device", "abacus"], "'abacus' is not a device"),
    ],
)
def test_mistakes_are_a_sentence(cutaway, arguments, sentence):
    code, out, err = cutaway("bench", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
