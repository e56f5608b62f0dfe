"""`cutaway interpret circuit find` and `minimise`: circuits found, made smaller and drawn on prompts that fit, on a tiny run."""

import json
import re
import shutil

import pytest
import torch

import cutaway as package
from circuit_commands import ASKED, PAIRS, widest
from cutaway import sae
from cutaway.cli.interpret.circuit.given import DEMO
from cutaway.interp.circuits import Circuit


def test_a_circuit_is_found_run_scored_and_drawn(cutaway, run, pairs, tmp_path):
    code, out, err = cutaway(
        "interpret", "circuit", "find", "play", *pairs, "--n-edges", "12", "--out", "c.json", "--report", "found.html"
    )
    assert (code, err) == (0, ""), err
    assert "The circuit is in c.json; next `cutaway interpret circuit score c.json`" in " ".join(out.split())
    assert "On 2 pairs that it was not found with" in out
    assert widest(out) <= 80
    circuit = Circuit.load("c.json")
    assert circuit.model == "play"
    assert circuit.settings["n_pairs"] == 2
    assert 0 < len(circuit) <= 12
    assert (tmp_path / "found.html").read_text().count("<svg") >= 1
    code, out, err = cutaway("interpret", "circuit", "run", "c.json", *pairs)
    assert (code, err) == (0, "The model is play.\n"), err
    assert "model and circuit" not in out
    assert widest(out) <= 80
    code, out, err = cutaway(
        "interpret", "circuit", "score", "c.json", "play", *pairs, "--ablation", "zero", "--n-random", "3", "--json"
    )
    assert code == 0, err
    scores = json.loads(out)
    assert [each["ablation"] for each in scores["ablations"]] == ["zero"]
    assert len(scores["ablations"][0]["random"]) == 3
    assert scores["n_edges"] == len(circuit)
    code, out, err = cutaway("interpret", "circuit", "draw", "c.json", "--out", "c.svg", "--report", "drawn.html")
    assert (code, err) == (0, ""), err
    assert "The picture is in c.svg." in out
    assert "cutaway interpret circuit draw c.json --out c.svg</p>" in (tmp_path / "drawn.html").read_text()
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    assert widest(out) <= 80


def test_one_pair_is_found_and_checked_on_itself(cutaway, run):
    code, out, err = cutaway("interpret", "circuit", "find", *ASKED, "--select", "acdc", "--threshold", "0.0001", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["is_held_out"] is False
    assert found["circuit"]["method"] == "ACDC, threshold 0.0001"
    assert found["scores"]["metric"] == "logit difference s - e"


def test_a_pair_that_comes_again_is_no_other_pair(cutaway, run, tmp_path):
    (tmp_path / "again.jsonl").write_text(2 * "".join(json.dumps(pair) + "\n" for pair in PAIRS))
    given = ["--prompts", "again.jsonl", "--n-edges", "9"]
    found = json.loads(cutaway("interpret", "circuit", "find", *given, "--out", "c.json", "--json")[1])
    assert found["is_held_out"] is True
    assert found["scores"]["n_known_pairs"] == 0
    assert len(set(Circuit.load("c.json").pair_hashes)) == 2
    (tmp_path / "one.jsonl").write_text(4 * (json.dumps(PAIRS[0]) + "\n"))
    found = json.loads(cutaway("interpret", "circuit", "find", "--prompts", "one.jsonl", "--out", "one.json", "--json")[1])
    assert found["is_held_out"] is False


def test_pairs_that_it_was_found_with_are_left_out_where_there_are_others(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "9", "--out", "c.json")[0] == 0
    score = ["interpret", "circuit", "score", "c.json", "--n-random", "0", "--n-subsets", "0", "--unit", "none", "--json"]
    scores = json.loads(cutaway(*score, *pairs)[1])
    assert (scores["n_known_pairs"], len(scores["ablations"][0]["circuit"])) == (0, 2)
    assert scores["notes"][-1] == "2 of the 4 pairs were left out, as the circuit was found with them"
    assert cutaway("interpret", "circuit", "find", *ASKED, "--n-edges", "9", "--out", "c.json", "--overwrite")[0] == 0
    scores = json.loads(cutaway(*score, *ASKED)[1])
    assert scores["n_known_pairs"] == 1, "where there are no others, it is said"


def test_pairs_may_differ_in_length(cutaway, run, tmp_path):
    lines = [
        PAIRS[0],
        {**PAIRS[1], "clean": "a ring", "corrupted": "a sing"},
        PAIRS[2],
        {**PAIRS[3], "clean": "ring", "corrupted": "sing"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for ablation in ("resample", "mean"):
        given = ["--prompts", "pairs.jsonl", "--ablation", ablation, "--n-edges", "30", "--out", "c.json", "--overwrite", "--json"]
        code, out, err = cutaway("interpret", "circuit", "find", *given)
        assert code == 0, err
        kept = Circuit.load("c.json").prompts
        assert {pair.text for pair in (*kept.found_with, *kept.held_out)} == {each["clean"] for each in lines}
        rows = json.loads(out)["scores"]["ablations"][0]["circuit"]
        quick = ["--n-random", "0", "--n-subsets", "0", "--unit", "none"]
        scores = json.loads(cutaway("interpret", "circuit", "score", "c.json", *quick, "--json")[1])
        assert scores["ablations"][0]["circuit"] == rows
        assert cutaway("interpret", "circuit", "score", "c.json", "--curve", "--n-random", "0")[0] == 0
        shown = json.loads(cutaway("interpret", "circuit", "run", "c.json", "--json")[1])
        assert [each["circuit"]["metric"] for each in shown["prompts"]] == pytest.approx(rows, abs=1e-5)  # float32


def test_options_that_nothing_would_hear_are_refused(cutaway, run, pairs):
    for arguments, said in (
        (["find", "--threshold", "0.5"], "--select greedy and --threshold do not go together: it takes --n-edges"),
        (["find", "--select", "largest", "--threshold", "0.5"], "--select largest and --threshold do not go together"),
        (["find", "--select", "threshold", "--n-edges", "9"], "--select threshold and --n-edges do not go together"),
        (["find", "--select", "acdc", "--n-edges", "9"], "--select acdc and --n-edges do not go together"),
        (["find", "--select", "acdc", "--method", "eap"], "--select acdc and --method do not go together: it scores no edges"),
        (["find", "--select", "acdc", "--steps", "9"], "--select acdc and --steps do not go together"),
        (["find", "--method", "eap", "--steps", "9"], "--method eap and --steps do not go together"),
        (["score", DEMO, "--curve", "--unit", "edge"], "--curve and --unit do not go together"),
        (["score", DEMO, "--curve", "--n-subsets", "3"], "--curve and --n-subsets do not go together"),
        (["score", DEMO, "--ranking", "help"], "--ranking is of the curve's edges: give --curve too"),
    ):
        code, out, err = cutaway("interpret", "circuit", *arguments, *pairs)
        assert (code, out) == (2, ""), arguments
        assert said in err


def test_the_least_gap_is_given_wherever_a_share_is_taken(cutaway, run, pairs):
    for verb in (["find", "--out", "c.json"], ["minimise", "c.json"], ["score", "c.json", "--n-subsets", "0", "--unit", "none"]):
        ask = ["interpret", "circuit", *verb, *pairs]
        refused = " ".join(cutaway(*ask, "--least-gap", "1000")[1].split())
        assert "less than 1000, so no faithfulness is a share of it (--least-gap or least_gap sets the limit" in refused or (
            verb[0] == "minimise" and "faithfulness" not in refused
        )
        again = [*ask, "--least-gap", "0", *(["--overwrite"] if verb[0] == "find" else [])]
        assert "faithfulness" in cutaway(*again)[1]


def test_a_threshold_keeps_edges_by_their_scores(cutaway, run, pairs):
    given = ["interpret", "circuit", "find", *pairs, "--select", "threshold", "--json", "--threshold"]
    many, few = (json.loads(cutaway(*given, share)[1])["circuit"] for share in ("0.001", "0.2"))
    assert set(few["edges"]) < set(many["edges"])
    assert few["method"] == "eap-ig-inputs, threshold 0.2"


def test_a_circuit_is_made_smaller_and_kept(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "40", "--out", "c.json")[0] == 0
    shrink = ["interpret", "circuit", "minimise", "c.json", *pairs, "--tolerance", "0.2"]
    code, out, err = cutaway(*shrink, "--report", "smaller.html")
    assert code == 0, err
    assert "Keep it with --out FILE" in out
    assert "On 2 pairs that neither saw" in " ".join(out.split())
    assert widest(out) <= 80
    assert "<svg" in (tmp_path / "smaller.html").read_text()
    code, out, err = cutaway(*shrink, "--out", "smaller.json", "--json")
    assert code == 0, err
    found, first, second = json.loads(out), Circuit.load("c.json"), Circuit.load("smaller.json")
    assert set(second.edges) < set(first.edges)
    assert set(found["removed"]) == set(map(str, (first - second).edges))
    assert found["is_held_out"] is True
    assert second.pair_hashes == first.pair_hashes, "what it was found with was searched, the other pairs were not"
    assert second.settings["minimised"] == {
        "n_edges": len(first), "tolerance": 0.2, "ablation": "resample", "data": first.data_hash
    }  # fmt: skip
    code, out, err = cutaway("interpret", "circuit", "score", "smaller.json", *pairs, "--n-random", "2", "--json")
    assert code == 0, err
    assert json.loads(out)["ablations"][0]["circuit"] == found["after"]["ablations"][0]["circuit"]


def test_edges_are_tried_beside_their_scores(cutaway, run, pairs):
    found = ["interpret", "circuit", "find", *pairs, "--n-edges", "9", "--exact-top", "5"]
    code, out, err = cutaway(*found)
    assert code == 0, err
    assert "5 edges tried: " in out
    assert "among those tried" in " ".join(out.split())
    assert "Edges tried one by one" in out
    assert widest(out) <= 80
    tried = json.loads(cutaway(*found, "--json")[1])["tried"]
    assert len(tried["exact"]) == 5
    acdc = ["interpret", "circuit", "find", *pairs, "--exact-top", "5", "--select", "acdc"]
    assert "--select acdc and --exact-top do not go together: it scores no edges" in cutaway(*acdc)[2]


def test_features_of_a_dictionary_are_nodes(cutaway, run, pairs, tmp_path):
    lm = package.load("play")
    shape = sae.DictionaryConfig(kind="relu", d_in=lm.config.d_model, d_sae=16, name="blocks.0.mlp_out")
    sae.save_dictionary(sae.make_dictionary(shape, generator=torch.Generator().manual_seed(0)), "features")
    find = ["interpret", "circuit", "find", "play", *pairs, "--features", "features", "--n-features", "3", "--n-edges", "60"]
    code, out, err = cutaway(*find, "--method", "eap", "--out", "c.json")
    assert (code, err) == (0, ""), err
    assert re.search(r"heads, \d MLPs, [123] features?, embedding", " ".join(out.split()))
    assert widest(out) <= 80
    circuit = Circuit.load("c.json")
    assert [(each.layer, len(each.features)) for each in circuit.graph.features] == [(0, 3)]
    assert circuit.graph.features[0].path == str(tmp_path / "features")
    asked = ["--n-random", "0", "--n-subsets", "0", "--unit", "none", "--json"]
    for verb, options in {"run": ["--json"], "score": asked}.items():
        code, out, err = cutaway("interpret", "circuit", verb, "c.json", *pairs, *options)
        assert code == 0, err
    assert cutaway("interpret", "circuit", "score", "c.json", *pairs, "--curve", "--json")[0] == 0
    code, out, err = cutaway("interpret", "circuit", "draw", "c.json", "--out", "c.svg")
    assert (code, widest(out) <= 80) == (0, True)
    assert "mlp0.f" in (tmp_path / "c.svg").read_text()
    code, out, err = cutaway("interpret", "circuit", "find", "play", *pairs, "--out", "plain.json")
    code, out, err = cutaway("interpret", "circuit", "compare", "c.json", "plain.json")
    assert (code, "3 features of mlp0" in err) == (2, True)
    shutil.move("features", "moved")
    sae.save_dictionary(sae.make_dictionary(shape, generator=torch.Generator().manual_seed(1)), "another")
    for verb, options in {"run": [], "score": asked, "minimise": ["--tolerance", "0.9"]}.items():
        call = ["interpret", "circuit", verb, "c.json", *pairs, *options]
        code, out, err = cutaway(*call, "--features", "moved")
        assert code == 0, err
        code, out, err = cutaway(*call, "--features", "another")
        assert (code, "no features of a dictionary with sha256" in err) == (2, True)
    code, out, err = cutaway("interpret", "circuit", "run", "c.json", *pairs)
    assert code == 2
    assert "the dictionary of 3 features of mlp0 is not in" in err
    assert "--features FOLDER" in err
    code, out, err = cutaway(*find)
    assert (code, "there is no folder" in err) == (2, True)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([PAIRS[0], {**PAIRS[1], "corrupted": "the things"}], "pair 2: the clean prompt has 8 tokens and the corrupted one 10"),
        ([{**PAIRS[0], "corrupted": "aaaaaaaa"}], "the prompts do not align anywhere"),
        ([{"clean": "the king"}], "pairs.jsonl, line 1 has no 'corrupted': expected clean"),
        ([{**PAIRS[0], "wrnog": "e"}], "pairs.jsonl, line 1 has 'wrnog': expected clean, corrupted, correct, perhaps wrong"),
        ([{**PAIRS[0], "wrong": 3}], "pairs.jsonl, line 1: 'wrong' is 3; expected a text"),
        (
            [PAIRS[0], {key: PAIRS[1][key] for key in ("clean", "corrupted", "correct")}],
            "pairs.jsonl, line 2 has no 'wrong', and others have",
        ),
        ([{**PAIRS[0], "correct": "st"}], "is not one token but 3"),
        ([], "pairs.jsonl holds no lines"),
    ],
)
def test_prompts_that_do_not_fit_are_said(cutaway, run, tmp_path, lines, said):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = cutaway("interpret", "circuit", "find", "--prompts", "pairs.jsonl", "--out", "c.json")
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "c.json").exists()


def test_where_the_prompts_of_a_pair_differ_is_said(cutaway, run, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**PAIRS[0], "corrupted": "the wings"}))
    err = cutaway("interpret", "circuit", "find", "--prompts", "pairs.jsonl")[2]
    assert "they first differ at position 4, k and w: give a pair of one length" in " ".join(err.split())
