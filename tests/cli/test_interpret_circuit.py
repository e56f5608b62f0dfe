"""`cutaway interpret circuit`, on a tiny run."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

import cutaway as package
from cutaway import sae
from cutaway.cli.interpret.circuit.given import DEMO, given_circuit
from cutaway.interp.circuits import Circuit, CircuitDrawing, read_pairs
from tiny_training import tiny_config, write_text

ASKED = ["--text", "the king", "--corrupted", "the wing", "--target", "s", "--wrong", "e"]
PAIRS = [
    {"clean": "the king", "corrupted": "the wing", "correct": "s", "wrong": "e"},
    {"clean": "the ring", "corrupted": "the sing", "correct": "t", "wrong": "o"},
    {"clean": "his king", "corrupted": "his wing", "correct": "a", "wrong": "e"},
    {"clean": "her ring", "corrupted": "her sing", "correct": "n", "wrong": "i"},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), n_steps=3, n_layers=2), quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    """The latest run of this test's folder of runs: characters, 2 layers of 2 heads."""
    return shutil.copytree(trained, tmp_path / "runs/play")


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return ["--prompts", "pairs.jsonl"]


def widest(out):
    """The longest line but for the summary, which a terminal breaks."""
    return max(map(len, out.splitlines()[2:]))


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


def test_a_file_is_run_and_scored_with_the_prompts_that_it_keeps(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "9", "--out", "c.json")[0] == 0
    (tmp_path / "pairs.jsonl").unlink()
    kept = Circuit.load("c.json").prompts
    assert (len(kept.found_with), len(kept.held_out), kept.source, kept.metric) == (2, 2, "pairs.jsonl", "logit_diff")
    assert {pair.text for pair in (*kept.found_with, *kept.held_out)} == {each["clean"] for each in PAIRS}
    code, out, err = cutaway("interpret", "circuit", "run", "c.json")
    assert code == 0, err
    assert "It was found with other prompts." in " ".join(out.split())
    assert "those of the circuit's file are taken, held out when the circuit was found." in " ".join(out.split())
    found = json.loads(cutaway("interpret", "circuit", "run", "c.json", "--json")[1])
    assert {each["text"] for each in found["prompts"]} == {pair.text for pair in kept.held_out}
    assert found["n_known_pairs"] == 0
    score = ["interpret", "circuit", "score", "c.json", "--n-random", "0", "--n-subsets", "0", "--unit", "none", "--json"]
    scores = json.loads(cutaway(*score)[1])
    assert (scores["n_known_pairs"], len(scores["ablations"][0]["circuit"])) == (0, 2)
    curve = json.loads(cutaway("interpret", "circuit", "score", "c.json", "--curve", "--n-random", "0", "--json")[1])
    assert "Edges were scored by eap-ig-inputs on 2 pairs, those that the circuit was found with" in curve["notes"]
    assert curve["curves"][0]["circuit"]["circuit"] == scores["ablations"][0]["circuit"], "it is marked as it is scored"
    prob = json.loads(cutaway(*score, "--metric", "prob")[1])
    assert prob["metric"].startswith("probability")


def test_a_file_is_run_under_the_ablation_that_it_was_found_under(cutaway, run, pairs):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "30", "--ablation", "zero", "--out", "c.json")[0] == 0
    given = ["c.json", "--json"]
    assert json.loads(cutaway("interpret", "circuit", "run", *given)[1])["ablation"] == "zero"
    quick = ["--n-random", "0", "--n-subsets", "0", "--unit", "none"]
    assert json.loads(cutaway("interpret", "circuit", "score", *given, *quick)[1])["ablations"][0]["ablation"] == "zero"
    found = json.loads(cutaway("interpret", "circuit", "score", *given, "--curve", "--n-random", "0")[1])
    assert [each["ablation"] for each in found["curves"]] == ["zero"]
    assert json.loads(cutaway("interpret", "circuit", "minimise", *given)[1])["after"]["ablations"][0]["ablation"] == "zero"
    assert json.loads(cutaway("interpret", "circuit", "run", *given, "--ablation", "mean")[1])["ablation"] == "mean"
    assert replace(Circuit.load("c.json"), settings={}).ablation == "resample"
    with pytest.raises(ValueError, match="found under the ablation 'noise'; expected one of"):
        assert replace(Circuit.load("c.json"), settings={"ablation": "noise"}).ablation


def test_a_curve_marks_the_circuit_and_is_measured_on_other_pairs(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "30", "--out", "c.json")[0] == 0
    ask = ["interpret", "circuit", "score", "c.json", *pairs, "--curve", "--n-random", "0", "--least-gap", "0"]
    code, out, err = cutaway(*ask)
    assert code == 0, err
    circuit, said = Circuit.load("c.json"), " ".join(out.split())
    assert f"The circuit itself keeps {circuit}; its faithfulness is " in said
    assert f"circuit {100 * circuit.share:.2g} {len(circuit)}" in said
    assert widest(out) <= 80
    found = json.loads(cutaway(*ask, "--json")[1])
    plain = ["interpret", "circuit", "score", "c.json", *pairs, "--n-random", "0", "--n-subsets", "0", "--unit", "none", "--json"]
    scores = json.loads(cutaway(*plain)[1])["ablations"][0]
    assert found["curves"][0]["circuit"]["circuit"] == scores["circuit"]
    assert (found["n_known_pairs"], len(scores["circuit"])) == (0, 2)
    own = [pair for pair in PAIRS if pair["clean"] in {each.text for each in circuit.prompts.found_with}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in own))
    known = cutaway("interpret", "circuit", "score", "c.json", "--prompts", "own.jsonl", "--curve", "--n-random", "0")[1]
    assert "1 of the pairs is among those it was found with, so that its point is no held-out one." in " ".join(known.split())


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


def test_a_file_without_prompts_asks_for_some(cutaway, run, pairs):
    assert cutaway("interpret", "circuit", "find", *ASKED, "--n-edges", "9", "--out", "one.json")[0] == 0
    out = cutaway("interpret", "circuit", "run", "one.json")[1]
    assert "those of the circuit's file are taken, those that the circuit was found with." in " ".join(out.split())
    assert "It was found with them: give others to see whether it holds." in " ".join(out.split())
    err = cutaway("interpret", "circuit", "score", "one.json", "--curve")[2]
    assert "the circuit holds no prompts of the part held_out: it was found with all 1 of its pairs" in " ".join(err.split())
    replace(Circuit.load("one.json"), prompts=None).save("old.json")
    code, out, err = cutaway("interpret", "circuit", "run", "old.json")
    assert (code, out) == (2, "")
    assert (
        "the circuit holds no prompts (it comes from an older version, or was not found with prompts): give --prompts FILE"
        in " ".join(err.split())
    )


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


def test_a_file_is_not_written_over_unless_told(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "9", "--out", "c.json")[0] == 0
    kept = (tmp_path / "c.json").read_bytes()
    for verb in (["find"], ["minimise", "c.json"]):
        again = ["interpret", "circuit", *verb, *pairs, "--out", "c.json"]
        code, out, err = cutaway(*again)
        assert (code, out) == (2, "")
        assert "c.json is there already: give another file, or --overwrite" in err
        assert (tmp_path / "c.json").read_bytes() == kept
        assert cutaway(*again, "--overwrite")[0] == 0
        kept = (tmp_path / "c.json").read_bytes()
    assert "is a folder" in cutaway("interpret", "circuit", "find", *pairs, "--out", "runs")[2]


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


def test_the_curve_of_a_circuit_s_method(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "9", "--method", "eap", "--out", "c.json")[0] == 0
    score = [
        "interpret",
        "circuit",
        "score",
        "c.json",
        *pairs,
        "--curve",
        "--n-random",
        "2",
        "--least-gap",
        "0",
        "--ablation",
        "zero",
    ]
    code, out, err = cutaway(*score, "--report", "curve.html")
    assert code == 0, err
    assert "Faithfulness over circuit size" in out
    assert "Edges were scored by eap on 2 pairs, those that the circuit was found with" in " ".join(out.split())
    assert widest(out) <= 80
    assert "<svg" in (tmp_path / "curve.html").read_text()
    curve = json.loads(cutaway(*score, "--ranking", "help", "--json")[1])
    assert (curve["area_as_in_mib"], curve["curves"][0]["ablation"]) == ("cpr", "zero")
    assert curve["curves"][0]["faithfulness"][-1] == 1, "the whole graph is the model"


def test_the_demo_circuit_is_the_one_that_find_finds_and_is_scored_on_the_same_pairs(cutaway, run, monkeypatch):
    class Prompts:
        def pairs(self, lm, *, metric=None):
            return read_pairs(
                lm, *([pair[name] for pair in PAIRS] for name in ("clean", "corrupted", "correct", "wrong")), metric=metric
            )

    monkeypatch.setattr("cutaway.experiments.ioi.ioi_prompts", lambda lm, n, **_: Prompts())
    code, out, err = cutaway("interpret", "circuit", "find", "play", "--demo")
    assert code == 0, err
    assert "Keep it with --out FILE" in out
    found = json.loads(cutaway("interpret", "circuit", "find", "play", "--demo", "--json")[1])
    known = given_circuit(package.load(run), DEMO, source="play")
    assert found["circuit"]["edges"] == CircuitDrawing(known).to_dict()["edges"]
    scored = json.loads(cutaway("interpret", "circuit", "score", DEMO, "play", "--demo", "--json")[1])
    first, second = (each["ablations"][0] for each in (found["scores"], scored))
    assert (first["circuit"], first["interval"]) == (second["circuit"], second["interval"])


def test_two_circuits_are_compared(cutaway, run, pairs, tmp_path):
    for n, name in ((9, "a.json"), (20, "b.json")):
        assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", str(n), "--out", name)[0] == 0
    code, out, err = cutaway("interpret", "circuit", "compare", "a.json", "b.json", "--report", "both.html")
    assert (code, err) == (0, ""), err
    assert "a.json alone" in out
    assert "cutaway interpret circuit compare a.json b.json</p>" in (tmp_path / "both.html").read_text()
    assert widest(out) <= 80
    first, second = (set(map(str, Circuit.load(name).edges)) for name in ("a.json", "b.json"))
    found = json.loads(cutaway("interpret", "circuit", "compare", "a.json", "b.json", "--json")[1])
    assert set(found["edges"]) == first & second
    assert found["edge_jaccard"] == len(first & second) / len(first | second)
    assert "two circuits are compared" in cutaway("interpret", "circuit", "compare", "a.json")[2]


@pytest.mark.parametrize("verb", ["find", "run", "score", "minimise", "compare", "draw"])
def test_help_names_the_source_and_an_example(cutaway, verb):
    code, out, _ = cutaway("interpret", "circuit", verb, "--help")
    assert code == 0
    assert f"cutaway interpret circuit {verb} --demo" in out
    assert "et al. 20" in " ".join(out.split())
    usage = out.splitlines()[0]
    assert usage.endswith(
        {"find": "find [MODEL] [OPTIONS]", "compare": "compare CIRCUIT OTHER [OPTIONS]", "draw": "draw CIRCUIT [OPTIONS]"}.get(
            verb, "CIRCUIT [MODEL] [OPTIONS]"
        )
    )


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


def test_what_is_missing_or_of_another_model_is_said(cutaway, run, pairs, tmp_path):
    assert cutaway("interpret", "circuit", "find", *pairs, "--n-edges", "9", "--out", "c.json")[0] == 0
    for arguments, said in (
        (["find"], "--prompts or --ioi or --text is missing: give one of them, or --demo"),
        (
            ["find", "--text", "the king"],
            "one prompt is given by --text, --corrupted and --target, perhaps --wrong: give all three",
        ),
        (["find", *pairs, *ASKED], "three ways to give prompts"),
        (["find", *pairs, "--out", "no/c.json"], "there is no folder"),
        (["find", "--ioi", "8"], "as one token: give prompts of your own (--prompts FILE, read_pairs in Python), or a model that"),
        (["run", "none.json"], "there is no file none.json; `cutaway interpret circuit find --out none.json` writes a circuit"),
        (["run", *pairs], "CIRCUIT is missing: give it, or --demo"),
        (["draw"], "CIRCUIT is missing: give a file"),
        (
            ["run", "none.json", *pairs],
            "there is no file none.json; `cutaway interpret circuit find --out none.json` writes a circuit",
        ),
        (["run", "pairs.jsonl", *pairs], "pairs.jsonl holds no circuit: "),
        (["draw", "c.json", "--out", "c.txt"], "expected one of .png, .svg, .pdf"),
    ):
        code, out, err = cutaway("interpret", "circuit", *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert err.count("\n") == 1
    text = (tmp_path / "c.json").read_text()
    weights = json.loads(text)["model"]["sha256"]
    (tmp_path / "other.json").write_text(text.replace(weights, "0" * 64))
    assert "found in a model with other weights" in cutaway("interpret", "circuit", "run", "other.json", *pairs)[2]
    assert cutaway("interpret", "circuit", "run", "other.json", *pairs, "--force")[0] == 0
    config = json.loads(text)["model"]["config"]
    assert config["n_layers"] == 2
    (tmp_path / "deeper.json").write_text(text.replace('"n_layers": 2', '"n_layers": 3'))
    code, _, err = cutaway("interpret", "circuit", "score", "deeper.json", *pairs, "--force")
    assert code == 2
    assert "is of a model of another shape: 3 layers of 2 heads" in err
