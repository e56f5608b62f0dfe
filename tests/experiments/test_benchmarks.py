"""Circuits are found by their benchmark, prompts need a tokenizer with the names, and docs/experiments.md is made of results."""

import re
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from cutaway import ModelConfig, Transformer, experiments
from cutaway.experiments.frame import sources_sha256
from cutaway.experiments.handmade import HANDMADE, induction
from cutaway.experiments.ioi import ioi_prompts
from cutaway.language_model import LanguageModel
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import CharTokenizer

EXACT = {
    "ablation, zero": {"heads", "neurons"},
    "ablation, mean": {"heads", "neurons"},
    "patching z": {"heads"},
    "patching q, k, v": {"inputs"},
    "patching pattern": {"patterns"},
    "path patching": {"edges", "heads", "neurons"},
    "attribution": {"heads", "patterns", "neurons"},
    "attribution on a line": {"heads", "patterns", "neurons"},
}
"""What each method finds wholly and without anything else."""


@pytest.fixture
def circuits() -> ModuleType:
    return pytest.importorskip("benchmarks.circuits", reason="benchmarks/ is found from the root: run python -m pytest there")


@pytest.mark.parametrize("name", ["induction", "indirect object", "induction, rotary, grouped, RMSNorm"])
def test_methods_find_the_known_circuit(circuits: ModuleType, name: str) -> None:
    made = HANDMADE[name](n_prompts=2)
    known = circuits.known_of(made)
    for method in EXACT.keys() - {"attribution on a line"}:  # which takes long
        for kind, found in circuits.METHODS[method](made).items():
            if kind in EXACT[method] and known[kind].wanted:
                assert circuits.precision_and_recall(found, *known[kind]) == (1.0, 1.0), (method, kind)


def test_methods_find_the_known_neuron(circuits: ModuleType) -> None:
    made = HANDMADE["neuron"](n_prompts=1)
    known, (head,) = circuits.known_of(made), made.circuit.heads
    for method in ("ablation, zero", "attribution", "attribution on a line", "path patching"):
        found = circuits.METHODS[method](made)
        assert circuits.precision_and_recall(found["neurons"], *known["neurons"]) == (1.0, 1.0), method
    # with MLPs recomputed on the way, what the head writes reaches the logits through the neuron: one edge too many
    assert found["edges"] == known["edges"].wanted | {(f"L{head.layer}H{head.head}", "logits")}


def test_precision_and_recall(circuits: ModuleType) -> None:
    known = {(0, 1), (1, 0), (1, 1), (1, 2)}
    assert circuits.precision_and_recall({(0, 1), (0, 2)}, known, known) == (0.5, 0.25)
    assert circuits.precision_and_recall(set(), {(0, 1)}, {(0, 1)}) == (None, 0.0)
    assert circuits.precision_and_recall({(0, 1)}, {(0, 1)}, set()) == (1.0, None)
    table = circuits.table({"none": lambda _: {"heads": set()}}, {"induction": induction})
    assert table[-1].split() == ["none:", "heads", "1", "-", "0.00"]


def test_the_tables_fit_a_terminal(circuits: ModuleType) -> None:
    longest = max(HANDMADE, key=len)
    models = {longest: lambda: HANDMADE[longest](n_prompts=4)}
    lines = [
        *circuits.table({"attribution on a line": circuits.METHODS["attribution"]}, models),
        *circuits.detector_table(models),
    ]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  detectors: heads of a kind") for line in lines)  # the mean has a row of its own


def test_benchmarks_use_the_library_and_not_the_command_line() -> None:
    files = list((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
    assert len(files) > 5
    assert [file.name for file in files if re.search(r"^\s*(from|import) cutaway\.cli", file.read_text(), re.MULTILINE)] == []


def test_names_that_are_not_one_token_are_refused() -> None:
    made = induction()
    with pytest.raises(ValueError, match="fewer than 4 of the names"):
        ioi_prompts(LanguageModel(made.model, made.tokenizer), 2)


@pytest.fixture
def reproductions() -> ModuleType:
    return pytest.importorskip("benchmarks.reproductions", reason="benchmarks/ is found from the root: run python -m pytest there")


def test_the_table_of_experiments_is_made_of_results(reproductions: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.experiments.NAMES", ("bigrams",))
    check = {
        "name": "KL",
        "values": [0.01, 0.5, 0.02],
        "nulls": [0.7, 0.9, 0.8],
        "nearest_null": 0.7,
        "expected": "at most 0.02",
        "null_of": "|unigram|",
    }
    bigrams = experiments.experiment("bigrams")
    settings = bigrams.settings(bigrams.scale("small").config)
    made_with = {"commit": "0123456789", "device": "CPU", "torch": "2.13"}
    checks = [{**check, "passed": [True, False, True]}]
    record = {
        "experiment": "bigrams",
        "settings": settings,
        "seeds": {seed: {"made_with": made_with} for seed in "012"},
        "checks": checks,
    }
    larger = record | {"settings": settings | {"window": 1000}, "checks": [checks[0] | {"values": [9.0, 9.0, 9.0]}]}
    rows = reproductions.table([record, larger, record | {"experiment": "of another list"}])
    assert rows.splitlines()[2].endswith(r"| 2 of 3 seeds pass all 1 | KL: 0.01, 0.5, 0.02 (at most 0.02; \|unigram\| 0.7) |")
    assert rows.splitlines()[-1].endswith("Measured at commit 0123456; CPU; torch 2.13.")
    page = f"a\n{reproductions.BEGIN}\nold\n{reproductions.END}\nb\n"
    assert reproductions.filled(page, "new") == f"a\n{reproductions.BEGIN}\nnew\n{reproductions.END}\nb\n"
    with pytest.raises(ValueError, match="the page lacks"):
        reproductions.filled("a", "new")
    with pytest.raises(ValueError, match="no result of bigrams on 3 seeds"):
        reproductions.table([{**record, "seeds": {"0": {}}}])
    with pytest.raises(ValueError, match="no result of bigrams on 3 seeds"):
        reproductions.table([larger])
    with pytest.raises(ValueError, match="two results of bigrams at its small scale"):
        reproductions.table([record, record])
    endless = record | {"checks": [checks[0] | {"values": [None, 1.0, 2.0], "nulls": [None, None, None], "nearest_null": "nan"}]}
    assert "KL: not finite, 1, 2 (at most 0.02; \\|unigram\\| nan)" in reproductions.table([endless])


def test_results_of_other_code_are_outdated(reproductions: ModuleType) -> None:
    sources = sources_sha256(experiments.experiment("bigrams"))
    seeds = {str(seed): {"made_with": {"sources": sources}, "trainings": {"no layers": {"sources": sources}}} for seed in range(2)}
    assert not reproductions.is_outdated({"experiment": "bigrams", "seeds": seeds})
    for changed in ({"made_with": {}}, {"trainings": {"no layers": {"sources": "other"}}}):
        assert reproductions.is_outdated({"experiment": "bigrams", "seeds": seeds | {"1": seeds["1"] | changed}})


def test_readme_lists_every_experiment(reproductions: ModuleType) -> None:
    page = reproductions.PAGE.read_text()
    rows = page.partition(reproductions.BEGIN)[2].partition(reproductions.END)[0]
    assert re.findall(r"^\| `([\w-]+)`", rows, flags=re.MULTILINE) == list(experiments.NAMES)


def test_the_benchmark_of_autoencoders_says_what_was_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = pytest.importorskip("benchmarks.sae", reason="benchmarks/ is found from the root: run python -m pytest there")
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question\n" * 200)
    tokenizer = CharTokenizer.fit(text.read_text())
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=128, n_layers=1, n_heads=1, d_model=8)
    lm = LanguageModel(Transformer(shape, generator=seeded_generator(0)), tokenizer)
    few = {"layer": 0, "tokens": 1024, "evaluated": 256, "steps": 5, "batch_size": 64, "width": 2, "k": 2, "learning_rate": 1e-3}
    benchmark.run(lm, tmp_path / "store", Namespace(corpus=str(text), **few))
    said = capsys.readouterr().out
    assert "of which none was held out" not in said
    assert f"The text is {text} (8,400 tokens, of which the last 840 were held out)" in said
