"""`cutaway interpret circuit run`, `score` and `compare`: what is done with a circuit that is there, on a tiny run."""

import json
from dataclasses import replace

import pytest

import cutaway as package
from circuit_commands import ASKED, PAIRS, widest
from cutaway.cli.interpret.circuit.given import DEMO, given_circuit
from cutaway.interp.circuits import Circuit, CircuitDrawing, read_pairs


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
