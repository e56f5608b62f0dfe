"""`cutaway interpret graph`, on a tiny model whose tokens are words."""

import json

import pytest
import torch
from word_models import write_text_and_models

from cutaway import sae

TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 60
PROMPT = "The capital of France is"
TC, TCS = ["--transcoder", "tcs/layer-00"], ["--transcoder", "tcs/layer-00", "--transcoder", "tcs/layer-01"]
GRAPH = ["interpret", "graph", "words", "--text", PROMPT]


@pytest.fixture
def words(cutaway, tmp_path):
    """A folder with a model that has never learned anything and another, and transcoders for two layers of the first."""
    write_text_and_models(tmp_path, TEXT, n_ctx=64)
    code, _, err = cutaway(
        "interpret", "sae", "train", "words", "--corpus", "text.txt", "--width", "2", "--k", "3", "--steps", "20", "--batch-size", "32",
        "--n-pos", "16", "--site", "ln2.normalized", "--target", "mlp_out", "--layer", "all", "--save", "tcs",
    )  # fmt: skip
    assert code == 0, err


def narrow_enough(out):
    return max(map(len, out.splitlines()[2:])) <= 80


def test_a_graph_is_shown_written_and_tested(cutaway, words, tmp_path):
    given = [*GRAPH, *TCS, "--target", "Paris", "--target", "London"]
    code, out, err = cutaway(*given, "--out", "graph.json", "--save", "made")
    assert code == 0, err
    assert out.startswith("Attribution graph\n")
    assert "2 of 2 MLP layers" in out
    assert "logit ·Paris" in out
    assert narrow_enough(out)
    assert "viewer is graph.json, and listed beside it" in err
    assert json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"][0]["slug"] == "graph"
    written = json.loads((tmp_path / "graph.json").read_text())
    assert written["metadata"]["transcoder_list"] == ["tcs/layer-00", "tcs/layer-01"]
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


def test_a_saved_graph_is_shown_pruned_written_and_tested_again(cutaway, words, tmp_path):
    code, first, err = cutaway(*GRAPH, "--transcoder", "tcs", "--save", "made", "--node-threshold", "0.9", "--json")
    assert code == 0, err
    saved = ["interpret", "graph", "--saved", "made"]  # which says what its model is called
    code, out, err = cutaway(*saved, "--json")
    assert code == 0, err
    assert out == first
    assert json.loads(out)["node_threshold"] == 0.9
    code, out, err = cutaway(*saved, "--node-threshold", "0.3", "--out", "graph.json", "--json")
    assert code == 0, err
    assert len(json.loads(out)["nodes"]) < len(json.loads(first)["nodes"])
    assert json.loads((tmp_path / "graph.json").read_text())["metadata"]["node_threshold"] == 0.3
    code, out, err = cutaway(*saved, "--test", "3", "--factor", "2")
    assert code == 0, err
    assert "3 features are multiplied with 2" in out
    assert narrow_enough(out)


def test_pages_of_features_are_written_and_led_to(cutaway, words, tmp_path):
    given = [*GRAPH, "--transcoder", "tcs", "--report", "graph.html"]
    code, _, err = cutaway(*given, "--pages", "pages", "--corpus", "text.txt")
    assert code == 0, err
    pages = sorted((tmp_path / "pages").glob("layer-0?/feature-*.html"))
    assert pages
    assert f'href="{pages[0].relative_to(tmp_path)}"' in (tmp_path / "graph.html").read_text()
    code, _, err = cutaway(*given, "--pages", "pages")
    assert code == 0, err
    assert f'href="{pages[0].relative_to(tmp_path)}"' in (tmp_path / "graph.html").read_text()


def test_the_viewer_is_given_what_features_stand_for(cutaway, words, tmp_path):
    code, _, err = cutaway(*GRAPH, "--transcoder", "tcs", "--out", "graph.json", "--corpus", "text.txt", "--node-threshold", "1")
    assert code == 0, err
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert graph["metadata"]["scan"] == "./data/graph-features"  # which its server finds beside the graphs
    files = {each.stem: json.loads(each.read_text()) for each in (tmp_path / "graph-features").iterdir()}
    features = [node for node in graph["nodes"] if node["activation"] is not None]
    strongest = min(features, key=lambda node: node["influence"])  # which is cumulative, from the strongest on
    assert str(strongest["feature"]) in files
    for values in files.values():
        assert {type(values[name]) for name in ("act_min", "act_max", "activation_frequency")} == {float}
        assert all(isinstance(text, str) for name in ("top_logits", "bottom_logits") for text in values[name])
        assert values["quantile_values"] == sorted(values["quantile_values"])
        assert len(values["quantile_values"]) == 100
        assert sum(values["histogram"]) > 0
        (quantile,) = values["examples_quantiles"]
        for example in quantile["examples"]:
            assert len(example["tokens"]) == len(example["tokens_acts_list"])
            assert max(example["tokens_acts_list"]) == example["tokens_acts_list"][example["train_token_ind"]]
            assert max(example["tokens_acts_list"]) <= values["act_max"]


def test_a_saved_graph_whose_model_is_elsewhere_says_who_names_it(cutaway, words, tmp_path):
    assert cutaway(*GRAPH, "--transcoder", "tcs", "--save", "made")[0] == 0
    (tmp_path / "words").rename(tmp_path / "moved")
    code, out, err = cutaway("interpret", "graph", "--saved", "made")
    assert (code != 0, out) == (True, "")
    assert "there is no file or folder words" in err
    assert "what was given names this model: say where it is now, as MODEL" in err
    code, _, err = cutaway("interpret", "graph", "moved", "--saved", "made")
    assert code == 0, err
    code, _, err = cutaway("interpret", "graph", "nowhere", "--saved", "made")
    assert "what was given names" not in err


def test_only_some_interventions_are_shown_and_that_is_said(cutaway, words):
    code, out, err = cutaway(*GRAPH, "--transcoder", "tcs", "--test", "13")
    assert code == 0, err
    assert "by 12 of 13 features; --report and --json have all" in " ".join(out.split())
    assert "by 12 of" not in cutaway(*GRAPH, "--transcoder", "tcs", "--test", "12")[1]


def test_paths_from_tokens_are_shown_once_where_they_are_the_strongest(cutaway, words):
    found = json.loads(cutaway(*GRAPH, "--transcoder", "tcs", "--json")[1])
    is_same = found["paths"][:6] == found["paths_from_tokens"][:6]
    out = " ".join(cutaway(*GRAPH, "--transcoder", "tcs")[1].split())
    assert ("The strongest paths, all of them from tokens" in out) == is_same
    assert ("The strongest paths from tokens" in out) != is_same


def test_edges_through_norms_are_said_to_be(cutaway, words):
    code, out, err = cutaway(*GRAPH, "--transcoder", "tcs", "--frozen", "patterns")
    assert code == 0, err
    assert "Edges are derivatives through the norms." in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["other", "--saved", "made"], "the graph is of another model"),
        (["--saved", "made", "--text", "Paris"], "do not go together"),
        (["--saved", "made", "--pos", "1"], "do not go together"),
        (["--saved", "made", "--transcoder", "tcs/layer-00", "--test", "3"], "made with other transcoders"),
        (["--saved", "tcs"], "holds no graph.json, so it is no saved graph"),
        (["--saved", "made", "--node-threshold", "2"], "expected a share, 0 to 1"),
        (["--saved", "made", "--save", "made"], "made holds a graph already: give another folder, or --overwrite"),
        (["--saved", "made", "--factor", "2"], "give --test N"),
        (["--saved", "made", "--pages", "words"], "has no page of any feature"),
        (["--saved", "made", "--corpus", "text.txt"], "give --pages FOLDER or --out FILE"),
        (["words"], "--text or --saved is missing"),
    ],
)
def test_saved_graphs_that_do_not_fit_are_refused(cutaway, words, options, sentence):
    assert cutaway(*GRAPH, "--transcoder", "tcs", "--save", "made")[0] == 0
    code, out, err = cutaway("interpret", "graph", *options)
    assert code in (1, 2)
    assert sentence in " ".join(err.split()), err
    assert not out


def test_without_transcoders_sketches_are_trained_and_that_is_said(cutaway, words):
    code, out, err = cutaway(*GRAPH)
    assert code == 0, err
    assert "sketches of all layers are trained" in err
    assert "--site ln2.normalized --target mlp_out" in err
    assert "2 of 2 MLP layers" in out


def test_sketches_of_a_run_learn_from_its_own_text(cutaway, run, tmp_path):
    """Its tokenizer knows the characters of that text alone, and so cannot read stdlib."""
    given = ["interpret", "graph", "--text", "the king", "--max-features", "30"]
    code, out, err = cutaway(*given)
    assert code == 0, err
    assert "play.txt in a moment" in " ".join(err.split())
    assert "2 of 2 MLP layers" in out
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"]["source"] = "gone.txt"
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = cutaway(*given)
    assert code != 0
    assert "gone.txt, which it learned from, is not there" in err
    assert "--corpus TEXT, or --transcoder FOLDER" in err
    (tmp_path / "mine.txt").write_text("the king sees the queen " * 50)
    code, _, err = cutaway(*given, "--corpus", "mine.txt")
    assert code == 0, err
    assert "are trained on mine.txt" in err


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
        ([*GRAPH, "--transcoder", "lone"], "lone: the dictionary of blocks.0.resid_post predicts no MLP's output"),
        ([*GRAPH, "--transcoder", "lone"], "sae train MODEL --site ln2.normalized --target mlp_out --corpus TEXT --save FOLDER`"),
        (["interpret", "graph", "other", "--text", PROMPT, *TC], "was trained on another model"),
        ([*GRAPH, *TC, *TC], "two transcoders are for layer 0"),
        ([*GRAPH, *TC, "--out", "graph.txt"], "give a file that ends in .json"),
        ([*GRAPH, *TC, "--out", "nowhere/graph.json"], "there is no folder"),
        ([*GRAPH, *TC, "--save", "words"], "holds other things"),
        ([*GRAPH, *TC, "--target", "Paris is"], "is not one token"),
        ([*GRAPH, *TC, "--pos", "99"], "there is no position 99"),
        ([*GRAPH, *TC, "--test", "0"], "expected at least 1"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence, tmp_path):
    if "lone" in options:
        shape = sae.DictionaryConfig(kind="relu", d_in=16, d_sae=4, name="blocks.0.resid_post")
        sae.save_dictionary(sae.make_dictionary(shape, generator=torch.Generator().manual_seed(0)), tmp_path / "lone")
    code, out, err = cutaway(*options)
    assert code != 0
    assert sentence in err
    assert out == ""
