import json

import pytest
import torch

from cutaway import measure, presets
from cutaway.config import ModelConfig
from cutaway.measure import Limits
from cutaway.model import Transformer
from stand_ins import write_lens_python, write_nanogpt, write_python

TINY = {"d_vocab": 40, "n_ctx": 64, "n_layers": 2, "n_heads": 4, "d_model": 16}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A shape that is quick, and nothing that takes long to compile."""
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny", TINY)
    for module in ("measure.machine", "measure.decoding", "profiles.train", "profiles.decode"):
        monkeypatch.setattr(f"cutaway.{module}.compile_obstacle", lambda _: "spared")


@pytest.fixture
def known_limits(monkeypatch):
    monkeypatch.setattr("cutaway.profiles.bench.measure_limits", lambda *_, **__: Limits(100.0, 10.0))


@pytest.fixture
def never(monkeypatch):
    """Nothing may be measured."""
    monkeypatch.setattr("cutaway.profiles.Bench", lambda **_: pytest.fail("it measures"))


def test_decoding_beside_transformers_by_length(cutaway):
    code, out, err = cutaway("bench", "decode", "--preset", "tiny", "--device", "cpu", "--rounds", "3", "--json")
    assert code == 0
    assert err.startswith("decode on CPU")
    record = json.loads(out)
    assert [each["length"] for each in record["comparisons"]] == [8, 32]
    for each in record["comparisons"]:
        programs = each["programs"]
        assert set(programs) == {"without the cache", "with the cache", "transformers"}
        assert [name for name, program in programs.items() if program["is_peer"]] == ["transformers"]
        for program in programs.values():
            assert program["tokens_per_s"] == pytest.approx(1 / program["time_s"])
            assert program["share_of_limit"] == pytest.approx(each["limit_s"] / program["time_s"])
    assert record["machine"]["device"].startswith("CPU")
    assert record["versions"]["torch"] == torch.__version__
    assert "transformers" in record["peers"]


def test_without_a_compiler_of_torch_s_it_measures_uncompiled(cutaway, monkeypatch, tmp_path):
    """clang++ alone is not what torch would call."""
    (tmp_path / "clang++").write_text("#!/bin/sh\necho clang version 15\n")
    (tmp_path / "clang++").chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny", TINY)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it compiles"))
    assert cutaway("bench", "limits", "--device", "cpu")[0] == 0
    code, out, err = cutaway("bench", "decode", "--preset", "tiny", "--device", "cpu", "--compile", "--rounds", "1")
    assert code == 0
    assert "there is no C++ compiler here" in err
    assert "compiled" not in out


def test_limits_are_plausible(cutaway):
    code, out, err = cutaway("bench", "limits", "--device", "cpu", "--json")
    assert code == 0
    assert err.startswith("limits on CPU")
    limits = json.loads(out)["limits"]["float32"]
    assert 0.1 < limits["read_gb_per_s"] < 5000
    assert 0.1 < limits["gflops_per_s"] < 100_000


@pytest.mark.usefixtures("known_limits")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["decode", "--rounds", "2"],
            ["decode: tiny, one row after so many tokens, float32; tokens/s", "without the cache", "the limit", "GB/s"],
        ),
        (["decode", "--rounds", "2", "--length", "5"], ["one row after 5 tokens", "to the best peer", "the same numbers: at most"]),
        (["forward", "--rounds", "1"], ["forward: tiny, 4 x 64 tokens, float32", "of the limit", "its matrix products alone"]),
        (
            ["train", "--rounds", "1", "--batch", "2"],
            ["train: tiny, 2 x 64 tokens a step", "as it is", "GFLOP/s of square products"],
        ),
        (["sweep", "--rounds", "1", "--length", "4"], ["every head, 4 tokens, float32, 8 cells", "one pass a cell"]),
        (["growth", "--rounds", "1", "--length", "16"], ["tiny, one row, float32", "gpt2-xl", "bytes to train here: exactly that"]),
        (["limits"], ["GFLOP/s, matrix products", "100"]),
    ],
    ids=lambda value: value[0],
)
def test_the_tables_say_it_in_80_columns(cutaway, arguments, said):
    preset = [] if arguments == ["limits"] else ["--preset", "tiny"]
    code, out, _ = cutaway("bench", *arguments, *preset, "--device", "cpu")
    assert code == 0
    for words in said:
        assert words in " ".join(out.split())
    tables = [line.rstrip() for line in out.splitlines() if not line.startswith(("limit: ", "the law: "))]
    assert max(map(len, tables)) <= 80


@pytest.mark.usefixtures("known_limits")
def test_a_profile_of_everything_is_written(cutaway, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.MODEL_PRESETS, "shakespeare-char", {**TINY, "act": "gelu"})
    nanogpt, python = write_nanogpt(tmp_path / "clone"), write_lens_python(tmp_path / "lens")
    folder = tmp_path / "kept/profile"
    code, out, err = cutaway(
        "bench", "profile", "--preset", "tiny", "--rounds", "1", "--nanogpt", str(nanogpt), "--transformer-lens", str(python),
        "--out", str(folder), "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "takes some minutes" in err
    assert err.count("left out") == err.count("the compiled step is left out") == 1
    assert out.splitlines()[-1] == f"Written into {folder}: profile.json, profile.svg, profile.png."
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "profile.png", "profile.svg"]
    record = json.loads((folder / "profile.json").read_text())
    works = [each["work"] for each in record["comparisons"]]
    assert list(dict.fromkeys(works)) == ["train", "forward", "decode", "sweep"]
    assert all(each["peers"] for each in record["comparisons"])
    assert record["peers"]["nanoGPT"].startswith("model.py of sha256")
    assert record["limits"]["float32"] == {"gflops_per_s": 100.0, "read_gb_per_s": 10.0}
    assert "argv" in record


@pytest.mark.usefixtures("known_limits")
def test_what_was_measured_is_kept_though_the_rest_fails(cutaway, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.MODEL_PRESETS, "shakespeare-char", {**TINY, "act": "gelu"})

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(__import__("cutaway.profiles", fromlist=["WORKS"]).WORKS, "decode", fail)
    code, out, _ = cutaway("bench", "profile", "--preset", "tiny", "--rounds", "1", "--out", "kept", "--device", "cpu")
    assert code == 130
    assert "forward: tiny" in out
    assert [each["work"] for each in json.loads((tmp_path / "kept/profile.json").read_text())["comparisons"]] == [
        "train",
        "forward",
    ]


@pytest.mark.usefixtures("known_limits")
def test_growth_is_written_beside_a_profile(cutaway, tmp_path):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/profile.json").write_text("{}")
    code, _, _ = cutaway(
        "bench", "growth", "--preset", "tiny", "--length", "8", "--rounds", "1", "--out", "profile", "--device", "cpu", "--json"
    )
    assert code == 0
    assert {path.name for path in (tmp_path / "profile").iterdir()} == {"profile.json", "growth.json", "growth.svg", "growth.png"}
    growth = json.loads((tmp_path / "profile/growth.json").read_text())["growth"]
    assert [cost["n_pos"] for cost in growth["lengths"]] == [8]


@pytest.mark.usefixtures("known_limits")
def test_peers_that_are_not_here_are_said_once(cutaway, monkeypatch):
    monkeypatch.setattr("cutaway.profiles.peers.HuggingFace.is_installed", lambda: False)
    code, _, err = cutaway("bench", "forward", "--preset", "tiny", "--rounds", "1", "--device", "cpu")
    assert code == 0
    assert "transformers is left out: install it into this environment (pip install transformers)" in err
    assert err.count("TransformerLens is left out: give a Python that has it by --transformer-lens PYTHON") == 1
    assert "nanoGPT" not in err


def test_bytes_a_token_are_the_weights_and_the_cache():
    config = ModelConfig(d_vocab=10, n_ctx=8, n_layers=2, n_heads=2, d_model=4)
    weights = 2 * (4 * 4 * 4 + 2 * 4 * 16) + 4 * 10
    assert measure.bytes_a_token(Transformer(config), length=5) == 4 * (weights + 2 * 2 * 4 * 5)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dreams"], "the argument is 'dreams'; expected decode, forward, train, sweep, limits, growth or profile; see"),
        (["forward", "--compile"], "--compile is nothing for `cutaway bench forward`; it is for decode"),
        (
            ["limits", "--preset", "gpt2-xl"],
            "--preset is nothing for `cutaway bench limits`; it is for decode, forward, train, sweep",
        ),
        (["growth", "--nanogpt", "clone"], "--nanogpt is nothing for `cutaway bench growth`; it is for train, profile"),
        (["decode", "--preset", "gtp2"], "there is no model preset 'gtp2'; there are gpt2"),
        (["decode", "--rounds", "0"], "--rounds is 0; expected at least 1"),
        (["decode", "--device", "abacus"], "'abacus' is not a device"),
        (["train", "--nanogpt", "nowhere"], "there is no folder nowhere: give a clone of it (git clone"),
        (["train", "--nanogpt", "."], ". holds no model.py, so it is no clone of nanoGPT: give a clone of it (git clone"),
        (
            ["sweep", "--transformer-lens", "no-python"],
            "no-python cannot be run (No such file or directory), and is to be a Python",
        ),
        (["sweep", "--out", "file"], "file is a file: give a folder to write profiles into"),
        (["sweep", "--out", "full"], "full holds other things (thesis.tex): give a folder of its own to profiles"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_a_sentence(cutaway, arguments, sentence, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    code, out, err = cutaway("bench", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("never")
def test_a_python_without_transformer_lens_is_a_sentence(cutaway, tmp_path):
    python = write_python(tmp_path / "python", site=tmp_path)
    (tmp_path / "transformer_lens.py").write_text("raise ModuleNotFoundError(\"No module named 'transformer_lens'\")")
    code, out, err = cutaway("bench", "sweep", "--transformer-lens", str(python))
    assert (code, out) == (2, "")
    assert (
        f"{python} is no Python that has TransformerLens (ModuleNotFoundError: No module named 'transformer_lens'): make an" in err
    )


@pytest.mark.usefixtures("never")
def test_a_model_py_of_something_else_is_a_sentence(cutaway, tmp_path):
    folder = write_nanogpt(tmp_path / "other", "GPT = 1")
    code, _, err = cutaway("bench", "train", "--nanogpt", str(folder))
    assert code == 2
    assert f"{folder}/model.py has no GPTConfig, so it is not nanoGPT's" in err
    (folder / "model.py").write_text("import nothing_that_is")
    code, _, err = cutaway("bench", "train", "--nanogpt", str(folder))
    assert code == 2
    assert "cannot be imported (ModuleNotFoundError: No module named 'nothing_that_is')" in err


@pytest.mark.usefixtures("never")
def test_a_full_disk_is_found_before_anything_is_measured(cutaway, monkeypatch):
    monkeypatch.setattr("cutaway.runtime.shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    code, out, err = cutaway("bench", "profile", "--out", "kept")
    assert (code, out) == (1, "")
    assert "kept takes 4 MiB and its disk has 1 MiB left: free some space, or give another place" in err
