"""`cutaway interpret graph`, on a tiny model whose tokens are words."""

import json

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face

TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 60
PROMPT = "The capital of France is"
GRAPH = ["interpret", "graph", "words", "--text", PROMPT]


@pytest.fixture
def words(cutaway, tmp_path):
    """A folder with a model that has never learned anything and another, and transcoders for two layers of the first."""
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = BPETokenizer.train(TEXT, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=64, n_layers=2, n_heads=2, d_model=16)
    for seed, name in enumerate(("words", "other")):
        save_hugging_face(
            LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(seed)), tokenizer), tmp_path / name
        )
    for layer in (0, 1):
        code, _, err = cutaway(
            "interpret", "sae", "train", "words", "--corpus", "text.txt", "--width", "2", "--k", "3", "--steps", "20",
            "--batch-size", "32", "--n-pos", "16", "--site", "ln2.normalized", "--target", "mlp_out", "--layer", str(layer),
            "--save", f"tc-{layer}",
        )  # fmt: skip
        assert code == 0, err


def narrow_enough(out):
    return max(map(len, out.splitlines()[2:])) <= 80


def test_a_graph_is_shown_written_and_tested(cutaway, words, tmp_path):
    given = [*GRAPH, "--transcoder", "tc-0", "--transcoder", "tc-1", "--target", "Paris", "--target", "London"]
    code, out, err = cutaway(*given, "--out", "graph.json", "--save", "made")
    assert code == 0, err
    assert out.startswith("Attribution graph\n")
    assert "2 of 2 MLP layers" in out
    assert "logit ·Paris" in out
    assert narrow_enough(out)
    assert "viewer is graph.json, and listed beside it" in err
    assert json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"][0]["slug"] == "graph"
    written = json.loads((tmp_path / "graph.json").read_text())
    assert written["metadata"]["transcoder_list"] == ["tc-0", "tc-1"]
    assert written["metadata"]["prompt"] == PROMPT
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["graph.json", "graph.safetensors"]
    found = json.loads(cutaway(*given, "--json")[1])
    assert [each["text"] for each in found["logits"]] == [" Paris", " London"]
    assert 0 <= found["replacement_score"] <= 1
    code, out, err = cutaway(*given, "--test", "3", "--report", "page.html")
    assert code == 0, err
    assert out.startswith("Interventions on an attribution graph\n")
    assert narrow_enough(out.partition("The report is")[0])
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_without_transcoders_sketches_are_trained_and_that_is_said(cutaway, words):
    code, out, err = cutaway(*GRAPH)
    assert code == 0, err
    assert "sketches of all layers are trained" in err
    assert "--site ln2.normalized --target mlp_out" in err
    assert "2 of 2 MLP layers" in out


def test_a_large_model_is_told_what_to_train_first(cutaway, words, monkeypatch):
    monkeypatch.setattr("cutaway.cli.interpret.graph._MOST_SKETCHED", 100)
    code, out, err = cutaway(*GRAPH)
    assert code != 0
    assert "too large for sketches: train them with `cutaway interpret sae train" in err
    assert out == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([*GRAPH, "--transcoder", "words"], "holds no cfg.json"),
        (["interpret", "graph", "other", "--text", PROMPT, "--transcoder", "tc-0"], "was trained on another model"),
        ([*GRAPH, "--transcoder", "tc-0", "--transcoder", "tc-0"], "two transcoders are for layer 0"),
        ([*GRAPH, "--transcoder", "tc-0", "--out", "graph.txt"], "give a file that ends in .json"),
        ([*GRAPH, "--transcoder", "tc-0", "--out", "nowhere/graph.json"], "there is no folder"),
        ([*GRAPH, "--transcoder", "tc-0", "--save", "words"], "holds other things"),
        ([*GRAPH, "--transcoder", "tc-0", "--target", "Paris is"], "is not one token"),
        ([*GRAPH, "--transcoder", "tc-0", "--pos", "99"], "there is no position 99"),
        ([*GRAPH, "--transcoder", "tc-0", "--test", "0"], "expected at least 1"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    code, out, err = cutaway(*options)
    assert code != 0
    assert sentence in err
    assert out == ""
